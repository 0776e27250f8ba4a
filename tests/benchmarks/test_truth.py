"""The benchmark that judges the procedure must itself judge rightly: its figures are held to cases worked out apart."""

import doctest
import json
import math
import random
import statistics
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks.truth import aa, chain, claims, cost, noise, page, trials, winners
from benchmarks.truth.book import Book, kept_rows
from benchmarks.truth.claims import claim_of, in_groups, known_spread, unpaired_means, unpaired_medians, wilson
from benchmarks.truth.effects import calibrated_ratios, effect_tables
from benchmarks.truth.tables import all_tables
from benchmarks.truth.targets import target_text, targets_of
from benchmarks.truth.trials import moments_of, seconds_between
from hybrid_core.evaluation import evaluate
from hybrid_core.records import Estimate, MeasureLimits, MeasureRequest, Outcome, Purpose, Verdict


def row_of(part: str, number: int, ratio: float, half: float = 0.01, **facts: object) -> dict[str, object]:
    speed = {"value": ratio, "low": ratio * math.exp(-half), "high": ratio * math.exp(half)}
    names = {"model": facts.pop("model", "m"), "size": "tiny", "workload": "forward", "turn": number}
    kept = {"outcome": "ok", "seconds": 3.0, "phases_s": {"timing": 1.0}, "pairs_ms": [[1.0, 1.0]]}
    return {"part": part, "key": f"{part}/{number}", "procedure": "p", **names, **kept, "speed": speed, **facts}


@pytest.mark.parametrize("module", [claims, noise, page, trials])
def test_examples_in_docstrings_are_true(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


def test_leaving_out_blocks_changes_no_bit_of_the_answer() -> None:
    torch.manual_seed(0)
    model, inputs = chain.Chain(12).eval(), torch.randn(3, chain.WIDTH)
    with torch.inference_mode():
        whole = model(inputs)
        assert torch.equal(whole, model(inputs, 7))
        assert not torch.equal(whole, model(inputs + 1))


def test_the_procedure_refuses_no_shortened_chain() -> None:
    percent = 10
    limits = MeasureLimits(min_pairs=4, max_pairs=4, max_timed_s=0.2, quality_samples=8)
    subject, recipe = chain.subject_of(percent, 0), chain.recipe_of(percent)
    request = MeasureRequest("t", "r", subject, recipe, Purpose.SEARCH, limits)
    trial = evaluate(chain.case_of(request), request, toolbox=chain.toolbox())
    # On a busy machine so few pairs may say nothing; a wrong answer would have ended it before the clock.
    assert trial.outcome in (Outcome.OK, Outcome.UNSTABLE), trial.reason
    assert trial.measurement is None or trial.measurement.max_abs_error == 0.0


def test_calibration_recovers_a_planted_line() -> None:
    lengths = [100, 101, 102, 105, 110]
    rows = [{"lengths": lengths, "low_ms": [0.05 * n for n in lengths]}] * 2
    assert calibrated_ratios(rows)[5].startswith("1.0500 (1.0500 to 1.0500, 2 processes)")


def test_wilson_agrees_with_its_closed_form_for_no_cases_and_for_all() -> None:
    z2 = 1.959964**2
    assert wilson(0, 50)[1] == pytest.approx(z2 / (50 + z2), rel=1e-6)
    assert wilson(50, 50)[0] == pytest.approx(50 / (50 + z2), rel=1e-6)


@pytest.mark.parametrize("estimate", [unpaired_means, unpaired_medians])
def test_unpaired_intervals_cover_the_truth_of_independent_calls(estimate: object) -> None:
    generator, held, cases = random.Random(1), 0, 60
    for _ in range(cases):
        baseline = [generator.lognormvariate(0.0, 0.1) for _ in range(100)]
        candidate = [generator.lognormvariate(math.log(1 / 1.05), 0.1) for _ in range(100)]
        found = estimate(baseline, candidate)  # type: ignore[operator]
        held += found.low <= 1.05 <= found.high
    assert held / cases > 0.88


def test_what_is_known_of_a_device_leaves_out_the_subject_it_is_used_for() -> None:
    rows = [row_of("aa", n, 1.0) for n in range(5)] + [row_of("aa", 9, 2.0, model="wild")]
    quiet, all_of_it = known_spread(rows, without="wild tiny, forward"), known_spread(rows)
    assert quiet is not None and quiet.sd == 0.0
    assert all_of_it is not None and all_of_it.sd == pytest.approx(math.log(2.0) / math.sqrt(6))


def test_a_gain_smaller_than_the_spread_of_the_device_is_not_called_faster() -> None:
    known = known_spread([row_of("aa", n, 1.0 + 0.03 * (-1) ** n) for n in range(20)])
    gain = Estimate(1.04, 1.03, 1.05)
    assert claim_of([gain], None)[1] is Verdict.BETTER
    assert claim_of([gain], known)[1] is Verdict.TIE


def test_finals_are_made_of_neighbours_and_leave_out_a_rest() -> None:
    assert [[row["turn"] for row in group] for group in in_groups([{"turn": n} for n in range(7)])] == [
        [0, 1, 2],
        [3, 4, 5],
    ]


def test_a_target_is_decided_only_with_as_many_cases_as_it_speaks_of() -> None:
    rows = [row_of("aa", n, 1.0) for n in range(200)]
    assert targets_of(rows[:199])[0]["met"] is None
    assert targets_of(rows)[0]["met"] is True
    assert "not decided: 200 cases" in target_text(targets_of(rows[:199])[0])


def test_a_trial_is_noisy_by_how_much_of_its_timed_phase_was_disturbed() -> None:
    marks = [("start", 0.0), ("timing", 2.0), ("memory", 4.0), ("", 5.0)]
    assert seconds_between(marks) == {"start": 2.0, "timing": 2.0, "memory": 1.0}
    timed = moments_of("timing", marks)
    assert timed is not None and noise.covered([(0.0, 2.5), (3.5, 9.0)], timed) == 0.5
    row = row_of("noise", 0, 1.0, noisy=True, disturbed_share=0.05)
    assert not noise.is_disturbed(row) and noise.is_disturbed({**row, "disturbed_share": 0.5})


def test_burners_stand_still_until_they_are_switched_on() -> None:
    with noise.burners() as processes:
        assert processes and all(process.poll() is None for process in processes)
        with noise.switched(processes, seed=0) as spans:
            pass
    assert spans == [] and all(process.poll() is not None for process in processes)


def test_orchestration_is_what_neither_trials_nor_the_survey_used() -> None:
    trials = [{"stage": "", "seconds": 30.0}, {"stage": "survey", "seconds": 2.0}, {"stage": "", "seconds": 5.0}]
    run = {"started_at": 100.0, "ended_at": 140.0, "result": {"cost": {"parts_s": {"asking the settings": 4.0}}}}
    facts = cost.facts_of_answer({"run": run, "trials": trials})
    assert (facts["trials_s"], facts["trials"]) == (35.0, 2)
    assert cost.orchestration_share(facts) == pytest.approx(1 / 40)


def test_a_repeat_counts_as_inside_only_when_it_was_measured() -> None:
    published = row_of("winners", 0, 1.5, half=0.1)
    assert winners.is_inside(published, row_of("winners", 1, 1.6))
    assert not winners.is_inside(published, row_of("winners", 1, 1.7))
    assert not winners.is_inside(published, {"outcome": "crashed"})


def test_rows_are_kept_but_for_failures_and_parts_started_afresh(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    book = Book([], lambda rows: [], count=1, path=path)
    book.begin("aa")
    book.add("aa", "aa/1", {"outcome": "ok"})
    assert book.is_full()
    book.begin("noise")
    assert not book.is_full()
    book.add("noise", "noise/1", {"outcome": "crashed"})
    book.add("noise", "noise/2", {"outcome": "unstable"})
    assert [row["key"] for row in kept_rows([], path)] == ["aa/1", "noise/2"]
    assert [row["key"] for row in kept_rows(["aa"], path)] == ["noise/2"]


def test_every_row_of_aa_has_a_key_of_its_own() -> None:
    keys = [key for key, _, _ in aa.orders(aa.TURNS)]
    assert len(set(keys)) == len(keys) >= 200


def test_the_page_has_a_place_for_every_table_and_is_filled_from_rows_alone() -> None:
    environment = json.loads(json.dumps(dict.fromkeys(("cpu", "cpu_capability", "torch", "python", "system"), "x")))
    environment |= {"cores": 2, "usable_cores": 1, "threads": 1}
    nothing = [row_of("aa", n, 1.0) for n in range(3)]
    rows = [*nothing]
    rows += [row_of("planted", n, 1.02, kind="trial", percent=2) for n in range(3)]
    times = {"baseline_ms": [1.02] * 100, "candidate_ms": [1.0, 1.0000001] * 50}
    rows += [{"part": "peers", "key": "peers/2/0", "procedure": "p", "percent": 2, "turn": 0, **times}]
    noisy = row_of("noise", 0, 1.0, noisy=True, disturbed_share=0.5, conditions={"flagged": True, "why": []})
    tables = {}
    for capability, own in (("avx512", rows), ("avx2", [*nothing, noisy])):
        made = all_tables({"environment": environment, "rows": own})
        tables |= {f"{capability}_{name}": told for name, told in made.items()}
    text = page.filled(page.PAGE.read_text(), tables)
    assert "1 of 1 (20.7 to 100.0 %)" in text
    assert text == page.filled(text, tables)
    with pytest.raises(ValueError, match="make them equal"):
        page.filled(text, {})


def test_peers_without_a_floor_call_half_of_nothing_faster() -> None:
    generator = random.Random(2)
    rows = []
    for turn in range(30):
        times = {
            name: [generator.lognormvariate(0, 0.05) for _ in range(100)] for name in ("baseline_ms", "candidate_ms")
        }
        rows.append({"part": "peers", "key": f"{turn}", "percent": 0, "turn": turn, **times})
    (line,) = [
        line for line in effect_tables(rows, "planted", "peers").splitlines() if "mean of 100 unpaired, any" in line
    ][:1]
    wrong = sum(statistics.fmean(r["baseline_ms"]) > statistics.fmean(r["candidate_ms"]) for r in rows)
    assert f"{wrong} of 30" in line and 8 < wrong < 22
