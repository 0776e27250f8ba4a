"""Building a table survives every end, tries nothing twice, and a forked child is contained like a fresh process."""

import json
import multiprocessing
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.search.agreement import compared
from benchmarks.search.build_table import build
from benchmarks.search.fork_server import ForkServer
from benchmarks.search.journal import Journal, identity
from benchmarks.search.plan import MOST_ATTEMPTS, Plan
from benchmarks.search.rows import Row, last_attempts, write_table
from hybrid_core.records import (
    MeasureLimits,
    MeasureRequest,
    Outcome,
    Purpose,
    Recipe,
    Step,
    Subject,
    Trial,
    Workload,
)
from tests.benchmarks.synthetic_tables import recipes
from tests.storage.sample_events import make_measurement
from workers.engines.containment import measure_environment
from workers.engines.local import LocalEngine

ABOUT = {"environment": {"cpu": "a processor"}, "versions": "1"}
SDPA, MERGE, FOLD = (
    Step("attention_fusion", "sdpa"),
    Step("kernel_fusion", "merge"),
    Step("kernel_fusion", "fold"),
)


def plan_of_few(unsupported: dict[Step, str] | None = None) -> Plan:
    return Plan("few", recipes()[:30], unsupported or {})


class Fake:
    """Measures by saying so; `outcomes`: recipe key -> what its next attempts end in."""

    def __init__(self, outcomes: dict[str, list[Outcome]] | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.outcomes = outcomes or {}

    def __call__(self, recipe: Recipe, which: str) -> Row:
        self.asked.append((which, recipe.key))
        left = self.outcomes.get(recipe.key, [])
        outcome = left.pop(0) if left else Outcome.OK
        return {"outcome": str(outcome), "reason": "a reason", "seconds": 2.0, "block": 0}


def test_every_valid_recipe_is_measured_once_in_each_pass_in_different_orders(tmp_path: Path) -> None:
    plan, fake = plan_of_few({SDPA: "no attention"}), Fake()
    journal = Journal(tmp_path / "few.jsonl", ABOUT)
    assert build(journal, plan, fake)
    a, b = ([key for which, key in fake.asked if which == wanted] for wanted in "AB")
    assert sorted(a) == sorted(b) == sorted(recipe.key for recipe in plan.valid())
    assert a != b and a[0] == "baseline"
    singles = [key for key in a if "=" in key and "+" not in key]
    assert a[1 : len(singles) + 1] == singles
    refused = [row for row in journal.rows if row.get("inferred_from") == "attention_fusion=sdpa"]
    assert {row["recipe"] for row in refused} == {r.key for r in plan.recipes if SDPA in r.steps}
    assert {row["reason"] for row in refused} == {
        "no attention",
        "attention_fusion=sdpa was unsupported: no attention",
    }
    assert Counter(map(identity, journal.rows)).most_common(1)[0][1] == 1


def test_what_contains_a_failed_single_is_inferred_and_costs_what_it_cost(tmp_path: Path) -> None:
    plan, fake = plan_of_few(), Fake({"kernel_fusion=merge": [Outcome.CRASHED]})
    journal = Journal(tmp_path / "few.jsonl", ABOUT)
    build(journal, plan, fake)
    assert not any("merge" in key and "+" in key for _, key in fake.asked)
    inferred = [row for row in journal.rows if row.get("inferred_from") == "kernel_fusion=merge"]
    assert {row["recipe"] for row in inferred} == {r.key for r in plan.recipes if MERGE in r.steps} - {
        "kernel_fusion=merge"
    }
    assert all(row["seconds"] == 2.0 and "merge was crashed: a reason" in row["reason"] for row in inferred)
    assert ("B", "kernel_fusion=merge") not in fake.asked


def test_what_a_noisy_machine_spoiled_is_tried_again_at_the_end_and_blocks_nothing(tmp_path: Path) -> None:
    outcomes = {"kernel_fusion=fold": [Outcome.UNSTABLE], "kernel_fusion=merge": [Outcome.TIMEOUT] * MOST_ATTEMPTS}
    plan, fake = plan_of_few(), Fake(outcomes)
    journal = Journal(tmp_path / "few.jsonl", ABOUT)
    assert build(journal, plan, fake)
    asked = Counter(key for which, key in fake.asked if which == "A")
    assert asked["kernel_fusion=fold"] == 2 and asked["kernel_fusion=merge"] == MOST_ATTEMPTS
    assert sum("merge" in key and "+" in key for key in asked) > 0
    assert ("B", "kernel_fusion=fold") in fake.asked and ("B", "kernel_fusion=merge") not in fake.asked
    passes = [which for which, _ in fake.asked]
    assert passes == sorted(passes)


def test_a_finished_table_is_given_further_judging_passes_and_nothing_is_measured_twice(tmp_path: Path) -> None:
    plan, path, fake = plan_of_few(), tmp_path / "few.parquet", Fake({"kernel_fusion=merge": [Outcome.CRASHED]})
    journal = Journal(tmp_path / "few.jsonl", ABOUT)
    assert build(journal, plan, fake)
    write_table(path, journal.rows, ABOUT)
    journal.close(remove=True)
    first, more = list(fake.asked), Fake()
    again = Journal(tmp_path / "few.jsonl", ABOUT, path)
    assert len(again.rows) == len(journal.rows) and build(again, plan, more) and not more.asked
    assert build(again, replace(plan, judges=3), more)
    worked = sorted(key for which, key in first if which == "B")
    assert [which for which, _ in more.asked] == ["C"] * len(worked) + ["D"] * len(worked)
    orders = [[key for which, key in more.asked if which == name] for name in "CD"]
    assert sorted(orders[0]) == sorted(orders[1]) == worked and orders[0] != orders[1]
    again.close()
    with pytest.raises(SystemExit, match="begun with another versions"):
        Journal(tmp_path / "other.jsonl", {**ABOUT, "versions": "2"}, path)


def test_a_wide_interval_is_measured_again_and_not_lost_where_that_fails(tmp_path: Path) -> None:
    """The machine was busy: half the width of the interval of log speed says so."""
    plan, fake = plan_of_few(), Fake({"kernel_fusion=fold": [Outcome.OK, Outcome.UNSTABLE]})
    bounds = {"kernel_fusion=fold": [(1.0, 1.3)], "kernel_fusion=merge": [(1.0, 1.3), (1.1, 1.2)]}

    def measure(recipe: Recipe, which: str) -> Row:
        row = fake(recipe, which)
        left = bounds.get(recipe.key, []) if which == "A" and row["outcome"] == "ok" else []
        low, high = left.pop(0) if left else (1.0, 1.1)
        return row | ({"speed_low": low, "speed_high": high} if row["outcome"] == "ok" else {})

    journal = Journal(tmp_path / "few.jsonl", ABOUT)
    assert build(journal, plan, measure)
    asked = Counter(key for which, key in fake.asked if which == "A")
    assert {key for key, count in asked.items() if count > 1} == set(bounds)
    found = last_attempts(journal.rows, "A")
    assert found["kernel_fusion=merge"]["speed_high"] == 1.2 and asked["kernel_fusion=merge"] == 2
    assert found["kernel_fusion=fold"]["speed_high"] == 1.1 and asked["kernel_fusion=fold"] == MOST_ATTEMPTS
    journal.rows.append(found["kernel_fusion=fold"] | {"outcome": "unstable", "speed_high": 9.0, "attempt": 3})
    assert last_attempts(journal.rows, "A")["kernel_fusion=fold"]["speed_high"] == 1.1


def _killed_while_measuring(path: Path, after: int) -> None:
    journal, fake = Journal(path, ABOUT), Fake()

    def measure(recipe: Recipe, which: str) -> Row:
        if len(fake.asked) == after:
            with path.open("ab") as file:
                file.write(b'{"recipe": "half a li')
                file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return fake(recipe, which)

    build(journal, plan_of_few(), measure)


def test_a_builder_that_is_killed_goes_on_without_losing_or_doubling_a_row(tmp_path: Path) -> None:
    path, plan = tmp_path / "few.jsonl", plan_of_few()
    for after in (7, 0, 20):
        process = multiprocessing.get_context("fork").Process(target=_killed_while_measuring, args=(path, after))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    fake = Fake()
    journal = Journal(path, ABOUT)
    kept = len(journal.rows)
    assert kept == 27
    assert build(journal, plan, fake)
    assert len(fake.asked) == 2 * len(plan.recipes) - kept
    assert Counter(map(identity, journal.rows)) == Counter((r.key, w, 0) for r in plan.recipes for w in "AB")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"about": ABOUT} and len(lines) == 1 + len(journal.rows)


def test_a_call_ends_at_its_limit_and_the_next_one_goes_on(tmp_path: Path) -> None:
    path, plan, fake = tmp_path / "few.jsonl", plan_of_few(), Fake()
    ticks = iter(range(0, 10_000, 5))
    for options in ({"limit": 4}, {"seconds": 31.0, "clock": lambda: float(next(ticks))}):
        journal = Journal(path, ABOUT)
        assert not build(journal, plan, fake, **options)  # type: ignore[arg-type]
        journal.close()
    assert 4 < len(fake.asked) < 12
    assert build(Journal(path, ABOUT), plan, fake)
    assert len(fake.asked) == 2 * len(plan.recipes)


def test_a_journal_of_another_machine_or_another_builder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    journal = Journal(path, ABOUT)
    with pytest.raises(SystemExit, match="another process builds few"):
        Journal(path, ABOUT)
    journal.close()
    with pytest.raises(SystemExit, match="another versions; remove"):
        Journal(path, {**ABOUT, "versions": "2"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    folder = tmp_path_factory.mktemp("fork")
    made = ForkServer(folder, measure_environment(folder, 1, "server"), preload=(), entry="tests.benchmarks.fork_entry")
    yield made
    made.stop()


def order(what: str, **limits: float) -> MeasureRequest:
    recipe = Recipe.from_dict({"quantization": what})
    subject = Subject("toy", "tiny", Workload("forward", "forward", 2))
    return MeasureRequest(f"id:{what}", "run", subject, recipe, Purpose.SEARCH, MeasureLimits(**limits))  # type: ignore[arg-type]


def test_each_forked_child_is_new_and_has_the_environment_of_its_trial(server: ForkServer, tmp_path: Path) -> None:
    engine = LocalEngine(server.command, tmp_path, tmp_path / "log")
    found = [engine.measure(order("fine"), variables={"COLOUR": colour}) for colour in ("red", "blue")]
    assert [trial.reason for trial in found] == ["1 red id:fine", "1 blue id:fine"]
    assert set(found[0].phases_s) == {"start", "timing", "end"}


@pytest.mark.parametrize(
    ("what", "reason"),
    [("crash", "crashed with SIGSEGV while in timing"), ("raise", "ended with exit code 1 while in timing")],
)
def test_a_forked_child_that_ends_badly_is_a_crashed_trial(
    server: ForkServer, tmp_path: Path, what: str, reason: str
) -> None:
    trial = LocalEngine(server.command, tmp_path, tmp_path / "log").measure(order(what))
    assert trial.outcome is Outcome.CRASHED and trial.reason.startswith(reason)
    assert what != "raise" or "ZeroDivisionError: in the child" in trial.log_tail
    server.refuse_if_gone()


@pytest.mark.parametrize("what", ["hang", "leave"])
def test_nothing_of_a_forked_child_outlives_its_trial(server: ForkServer, tmp_path: Path, what: str) -> None:
    engine = LocalEngine(server.command, tmp_path, tmp_path / "log")
    trial = engine.measure(order(what, total_timeout_s=1.5))
    assert trial.outcome is (Outcome.TIMEOUT if what == "hang" else Outcome.UNSUPPORTED)
    told = re.search(r"(?:pid|left) (\d+)", (tmp_path / "log").read_text())
    assert told is not None
    assert engine.measure(order("fine")).outcome is Outcome.UNSUPPORTED  # the server has buried the one before
    assert not psutil.pid_exists(int(told[1])) or psutil.Process(int(told[1])).status() == psutil.STATUS_ZOMBIE


def trials_of(speeds: list[float], memory: float = 1.5) -> list[Trial]:
    made = []
    for speed in speeds:
        measurement = make_measurement(random.Random(0), speed, memory, 1.0)
        made.append(Trial("t", "r", Recipe(), Purpose.SEARCH, Outcome.OK, measurement=measurement, seconds=2.0))
    return made


def test_forked_and_fresh_trials_differ_only_where_their_own_spread_does_not_explain_it() -> None:
    assert compared(trials_of([1.00, 1.02, 1.01]), trials_of([1.02, 1.00, 1.02])).startswith("agree")
    assert compared(trials_of([1.10, 1.12, 1.11]), trials_of([1.02, 1.00, 1.02])).startswith("DIFFER")
    assert compared(trials_of([1.0, 1.02]), trials_of([1.0, 1.02], memory=1.6)).startswith("DIFFER")
    crashed = Trial("t", "r", Recipe(), Purpose.SEARCH, Outcome.CRASHED)
    assert compared([crashed], trials_of([1.0])) == "forked crashed; fresh ok"


def test_a_server_that_died_is_no_recipes_fault(tmp_path: Path) -> None:
    made = ForkServer(tmp_path, measure_environment(tmp_path, 1, "s"), preload=(), entry="tests.benchmarks.fork_entry")
    made.stop()
    with pytest.raises(RuntimeError, match="the fork server ended with code"):
        made.refuse_if_gone()
