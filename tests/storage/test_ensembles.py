"""What failed together is remembered where each part works; synergies are stored once."""

import pytest

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Outcome, Purpose, Recipe, Trial, to_json
from storage.ensembles import forget_conflict
from storage.ingest import drain
from storage.queries import run_query
from storage.spool import SpoolWriter
from tests.storage.sample_events import make_config, make_measurement, make_subject

PAIR = {"attention_fusion": "sdpa", "quantization": "int8_dynamic"}
VERSIONS = "a processor, torch 2.13.0"


def trial(run_id, recipe, outcome=Outcome.OK, at=100.0, **kw):
    import random

    made = Recipe.from_dict(recipe)
    measured = make_measurement(random.Random(1), 1.2, 1.1, 1.0) if outcome is Outcome.OK else None
    names = (f"{run_id}:search:{made.key}", run_id, made, Purpose.SEARCH, outcome)
    return Trial(*names, measurement=measured, started_at=at, **kw)


def singles(run_id):
    return [trial(run_id, {strategy: setting}) for strategy, setting in PAIR.items()]


@pytest.fixture
def told(db, spool_dir):
    def tell(run_id, trials, versions=VERSIONS, family="llama", device="cpu", extra=()):
        subject = make_subject(device=device)
        with SpoolWriter(spool_dir, run_id, 1) as writer:
            facts = {"pid": 1, "config": make_config(), "subject": subject, "family": family, "versions": versions}
            writer.write("run_started", facts)
            for made in trials:
                writer.write("trial_finished", {"trial": made, "iteration": 1})
            for kind, data in extra:
                writer.write(kind, data)
            writer.write("run_finished", {"state": "finished", "cause": "", "winner": None})
        drain(db, spool_dir)

    return tell


def conflicts(db, **params):
    return run_query(db, "conflicts", params).to_pylist()


@pytest.mark.parametrize("outcome", [Outcome.UNSUPPORTED, Outcome.CRASHED, Outcome.WRONG])
def test_a_pair_that_fails_while_its_parts_work_is_remembered_with_its_evidence(db, told, outcome):
    told("run1", [*singles("run1"), trial("run1", PAIR, outcome, reason="it broke", stage="compile")])
    (row,) = conflicts(db)
    assert (row["recipe_key"], row["outcome"], row["reason"]) == (Recipe.from_dict(PAIR).key, outcome, "it broke")
    assert (row["family"], row["device"], row["versions"], row["run_id"]) == ("llama", "cpu", VERSIONS, "run1")
    assert row["evidence"] == "attention_fusion=sdpa in run run1, quantization=int8_dynamic in run run1"


def test_the_parts_may_have_worked_in_an_earlier_run(db, told):
    told("run1", singles("run1"))
    told("run2", [trial("run2", PAIR, Outcome.CRASHED)])
    assert [row["run_id"] for row in conflicts(db)] == ["run2"]


def test_a_pair_whose_part_fails_alone_is_no_conflict(db, told):
    first, second = singles("run1")
    told("run1", [first, trial("run1", {"quantization": "int8_dynamic"}, Outcome.CRASHED)])
    told("run2", [trial("run2", PAIR, Outcome.CRASHED)])
    assert conflicts(db) == []


@pytest.mark.parametrize(
    "changes", [{"versions": "another processor"}, {"family": "qwen"}, {"device": "cuda:0"}, {"versions": ""}]
)
def test_parts_that_work_elsewhere_prove_nothing_here(db, told, changes):
    told("run1", singles("run1"), **changes)
    told("run2", [trial("run2", PAIR, Outcome.CRASHED)])
    assert conflicts(db) == []


@pytest.mark.parametrize(
    ("outcome", "facts"),
    [
        (Outcome.CANCELLED, {}),
        (Outcome.WORKER_LOST, {}),
        (Outcome.DEVICE_LOST, {}),
        (Outcome.OUT_OF_MEMORY, {}),
        (Outcome.UNSTABLE, {}),
        (Outcome.TIMEOUT, {"seconds": 30.0}),
        (Outcome.CRASHED, {"reason": "killed by SIGKILL while in timing, perhaps by the out-of-memory killer"}),
    ],
)
def test_an_end_that_says_nothing_about_the_pair_is_not_remembered(db, told, outcome, facts):
    told("run1", [*singles("run1"), trial("run1", PAIR, outcome, **facts)])
    assert conflicts(db) == []


def test_a_long_timeout_is_remembered(db, told):
    told("run1", [*singles("run1"), trial("run1", PAIR, Outcome.TIMEOUT, seconds=181.0)])
    assert len(conflicts(db)) == 1


def test_the_newest_word_counts(db, told):
    told("run1", [*singles("run1"), trial("run1", PAIR, Outcome.CRASHED, at=100.0)])
    told("run2", [trial("run2", PAIR, Outcome.OK, at=200.0)])
    assert conflicts(db) == []


def test_a_forgotten_conflict_is_gone_until_it_fails_again(db, told):
    told("run1", [*singles("run1"), trial("run1", PAIR, Outcome.CRASHED, at=100.0)])
    (row,) = conflicts(db)
    assert forget_conflict(db, row["conflict_id"]) == row["recipe_key"]
    assert conflicts(db) == []
    told("run2", [trial("run2", PAIR, Outcome.CRASHED, at=db.now() + 1e9)])
    assert [again["conflict_id"] for again in conflicts(db)] == [row["conflict_id"]]


def test_forgetting_what_is_not_remembered_is_refused(db):
    with pytest.raises(InvalidInput, match="conflict 'x' is not remembered; `python -m workers conflicts` lists"):
        forget_conflict(db, "x")


def test_synergies_are_stored_once_and_asked_for_by_run_or_over_all(db, told):
    from hybrid_core.records import Estimate
    from hybrid_core.synergy import Interaction, Synergy

    made = Recipe.from_dict(PAIR)
    estimates = (Estimate(1.5, 1.4, 1.6), Estimate(1.4, 1.3, 1.5), Estimate(1.07, float("nan"), 1.2))
    found = Synergy(made, made.key, "speed", *estimates, Interaction.UNTOLD, ("a", "b", "c"))
    event = ("synergy", to_json({"synergies": [found]}))
    told("run1", singles("run1"), extra=[event, event, ("synergy", {"synergies": [{"key": "x"}]})])
    rows = run_query(db, "synergies", {"run_id": "run1"}).to_pylist()
    assert rows == run_query(db, "synergies").to_pylist() and len(rows) == 1
    (row,) = rows
    assert (row["recipe_key"], row["objective"], row["steps"], row["verdict"]) == (
        made.key, "speed", 2, "cannot be told",
    )  # fmt: skip
    assert (row["synergy"], row["synergy_low"], row["product_high"]) == (1.07, None, 1.5)
    assert [bad["error"] for bad in run_query(db, "ingest_errors").to_pylist()] == ["synergy: KeyError: 'measured'"]
