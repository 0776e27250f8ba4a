"""The catalog says what the registries say, arrives on time, and tells why when it cannot be built."""

import json
import subprocess
import sys

import pytest

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import HubUnavailable
from hybrid_core.records import SELECTION_METHODS
from workers.catalog import BUILD_TIMEOUT_S, RETRY_AFTER_S, CatalogKeeper
from workers.catalog_process import describe_strategy
from workers.paths import PROJECT_ROOT, DataPaths
from workers.submission import check_submission


class FakeClock:
    now = 1000.0

    def __call__(self):
        return self.now


def keeper(tmp_path, code, clock=None):
    program = (sys.executable, "-c", code)
    return CatalogKeeper(program, DataPaths(tmp_path).prepare(), clock or FakeClock())


def tick_until(catalog, wait_for, state):
    def reached():
        catalog.tick()
        return catalog.state == state or (state == "problem" and catalog.problem)

    wait_for(reached)


def test_the_printed_catalog_is_plain_json_that_agrees_with_the_registries_and_can_be_submitted_from():
    done = subprocess.run(
        [sys.executable, "-m", "workers.catalog_process"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    catalog = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    from hybrid_core.models.registry import ENTRIES
    from hybrid_core.search.searchers.registry import SEARCHERS
    from hybrid_core.selection.registry import METHODS
    from hybrid_core.strategies.registry import STRATEGIES

    assert [m["name"] for m in catalog["models"]] == [entry.name for entry in ENTRIES]
    declared = {strategy.name: [s.name for s in strategy.settings] for strategy in STRATEGIES}
    assert {s["name"]: [x["name"] for x in s["settings"]] for s in catalog["strategies"]} == declared
    assert tuple(m["name"] for m in catalog["selection_methods"]) == SELECTION_METHODS
    assert [m["sentence"] for m in catalog["selection_methods"]] == [method.sentence for method in METHODS]
    offered = [m["name"] for m in catalog["search_methods"]]
    assert set(offered) == {entry.name for entry in SEARCHERS if not entry.is_control}
    assert all(HybridOptimizationConfig(search_method=name) for name in offered)
    assert all(m["sentence"] for m in catalog["search_methods"])
    assert catalog["devices"][0]["id"] == "cpu" and catalog["devices"][0]["threads"] >= 1
    for entry in ENTRIES:
        for size in entry.sizes:
            for workload in entry.workloads(size):
                config = {"model": entry.name, "size": size, "workload": workload.name}
                assert check_submission(config, catalog).subject.workload == workload


def test_a_setting_tells_its_reason_for_each_device():
    from hybrid_core.strategies.registry import STRATEGIES

    described = describe_strategy(STRATEGIES[0], ["cpu"])
    for setting, facts in zip(STRATEGIES[0].settings, described["settings"], strict=True):
        assert facts["unavailable_on"] == {"cpu": STRATEGIES[0].unavailable(setting.name, "cpu")}
        assert facts["unavailable"] == facts["unavailable_on"]["cpu"] and facts["sentence"] == setting.sentence


def test_a_catalog_that_cannot_be_built_tells_why_and_is_tried_again_later(tmp_path, wait_for):
    clock = FakeClock()
    flag = tmp_path / "mended"
    code = (
        f"import pathlib, sys; print('{{}}') if pathlib.Path({str(flag)!r}).exists() else sys.exit('torch is broken')"
    )
    catalog = keeper(tmp_path / "data", code, clock)
    tick_until(catalog, wait_for, "problem")
    with pytest.raises(HubUnavailable, match=r"the catalog could not be built \(exit code 1: torch is broken\)"):
        catalog.get(wait_s=0)
    flag.touch()
    catalog.tick()
    assert catalog.state != "ready"
    clock.now += RETRY_AFTER_S
    tick_until(catalog, wait_for, "ready")
    assert catalog.get(wait_s=0) == {} and catalog.problem == ""


def test_a_catalog_that_takes_for_ever_is_given_up_and_leaves_no_process(tmp_path, wait_for, processes):
    clock = FakeClock()
    catalog = keeper(tmp_path, f"import time; time.sleep(300)  # {tmp_path}", clock)
    catalog.tick()
    wait_for(lambda: processes(tmp_path))
    with pytest.raises(HubUnavailable, match="is not built after 0 s"):
        catalog.get(wait_s=0)
    clock.now += BUILD_TIMEOUT_S + 1
    catalog.tick()
    assert catalog.problem.startswith("building the catalog took more than 180 s")
    wait_for(lambda: not processes(tmp_path))


def test_output_that_is_not_json_is_a_reason_too(tmp_path, wait_for):
    catalog = keeper(tmp_path, "print('hello')")
    tick_until(catalog, wait_for, "problem")
    assert "the catalog could not be built (Expecting value" in catalog.problem
