"""What a run process is told of earlier runs: its own family first, then others on its device, never itself."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hybrid_core.adaptive.shipped import shipped_history
from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.records import Recipe, to_json
from storage.connection import open_database
from storage.ingest import drain
from storage.runs import OpenRun, create_run, mark_running
from tests.storage.sample_events import StepClock, make_config, make_run_events, make_subject, spool_events
from workers.earlier import rows_for
from workers.run_process import _noise, _told, plan_from_registry


@pytest.fixture
def told(tmp_path):
    """Three finished runs: the same family, another family here, another family on a GPU."""
    db = open_database(tmp_path / "history.duckdb", StepClock())
    spool = tmp_path / "spool"
    spool.mkdir()
    for seed, (model, family, device) in enumerate(
        [("llama", "language", "cpu"), ("vit", "vision", "cpu"), ("convnet", "vision", "cuda:0")]
    ):
        run_id = create_run(
            db, to_json(make_config(model, device)), to_json(make_subject(model, device)), family=family
        )
        mark_running(db, run_id, 1, 100 + seed, 1.0)
        spool_events(spool, run_id, make_run_events(run_id, seed))
    drain(db, spool)
    run = OpenRun("mine", "queued", 0, {}, to_json(make_subject()), "language", 1.0, None)
    yield lambda **options: rows_for(db, run, RunConfig("llama", options=HybridOptimizationConfig(**options)))
    db.close()


def test_the_own_family_comes_first_and_other_families_of_this_device_follow(told):
    models = [row["model"] for row in told()["history"]]
    assert models == sorted(models, key=["llama", "vit"].index)
    assert set(models) == {"llama", "vit"}


def test_nothing_is_told_of_history_when_a_run_is_not_to_use_it(told):
    assert "history" not in told(enable_adaptive_hybrid=False)


def test_the_finals_of_the_same_model_size_and_workload_are_its_own():
    """Of a model that is steady here; the others of the day are not, and not told apart from each other."""
    subject = make_subject("llama")

    def final(ratios, **changes):
        rounds = json.dumps([{"ratio": r, "low": r * 0.99, "high": r * 1.01} for r in ratios])
        names = {"model": subject.model, "size": subject.size, "workload_label": subject.workload.label} | changes
        return {"trial_id": str(ratios), "recipe_key": "a=on", "purpose": "final", "rounds_json": rounds, **names}

    calm, wild = (1.2, 1.201, 1.2, 1.201), (1.0, 2.0, 0.7, 1.4)
    for changes in ({"model": "vit"}, {"size": "small"}, {"workload_label": "another"}):
        spread = _noise([final(calm), final(wild, **changes)], subject).of(Recipe.from_dict({"b": "on"}))
        assert spread.sd < 0.001 and spread.degrees == 3


def test_a_run_is_told_what_comes_with_the_project_unless_it_is_not_to_learn():
    capability = torch.backends.cpu.get_cpu_capability()
    order = SimpleNamespace(config=RunConfig("llama"), subject=make_subject("llama"), history=())
    told = _told(order, plan_from_registry(order).shipped)
    assert told == shipped_history(capability) and (told or capability not in ("AVX2", "AVX512"))
    deaf = replace(order.config, options=HybridOptimizationConfig(enable_adaptive_hybrid=False))
    assert _told(SimpleNamespace(config=deaf, history=()), told) == ()
