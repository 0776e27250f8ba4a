"""Bringing a model: inspected apart, offered everywhere once ready, harmless in any case. Real hub, fake inspection."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from hybrid_core.errors import InvalidInput
from workers import brought
from workers.brought import INTERRUPTED, BroughtKeeper
from workers.brought_request import check_request
from workers.code_policy import CodePolicy
from workers.paths import DataPaths

PLACE = ("huggingface", "/models/ok", "mine")


def offered(hub):
    return {model["name"]: model for model in hub.client.catalog()["models"]}


def inspected(hub):
    ledger = hub.paths.root / "inspected"
    return ledger.read_text().split() if ledger.exists() else []


def inspecting(hub):
    """The process of the inspection once it works."""
    seen = hub.paths.root / "seen.json"
    hub.wait_for(lambda: seen.exists() and seen.read_text())
    return psutil.Process(json.loads(seen.read_text())["pid"])


def test_a_ready_model_is_offered_like_any_other_and_can_be_optimized(hub):
    assert hub.bring()["state"] == "ready"
    model = offered(hub)["mine"]
    assert (model["brought"], model["kind"], model["path"]) == (True, "huggingface", "/models/ok")
    assert model["title"] == "Brought mine" and "extra" not in model
    assert model["workloads"]["full"][0]["label"] == "forward, batch 1 x 8"
    assert model["facts"]["full"]["fits"]["cpu"]["fits"] is True
    run_id = hub.submit(model="mine", size="full")
    assert hub.wait_over(run_id)["state"] == "finished"
    subject = json.loads(hub.run(run_id)["subject_json"])
    assert subject["source"] == model["source"]
    order = json.loads((hub.paths.runs / run_id / "attempt-1.json").read_text())
    told = {json.dumps(json.loads(line)) for line in (hub.paths.root / "subjects").read_text().splitlines()}
    assert order["subject"] == subject and told == {json.dumps(subject)}
    assert hub.client.recommend("mine") is not None


def test_a_run_of_a_model_forgotten_meanwhile_measures_it_and_hands_over_its_recipe(hub):
    hub.bring()
    hub.hold()
    run_id = hub.submit(model="mine", size="full")
    hub.wait_measuring(run_id)
    assert "Its files and the runs that measured it are untouched" in hub.client.forget_model("mine")
    hub.release()
    assert hub.wait_over(run_id)["state"] == "finished"
    assert "mine" not in offered(hub) and hub.brought("mine") is None
    recipe = json.loads(hub.client.handover(run_id)["recipe_json"])
    assert recipe["recipe"] == {"quantization": "two"} and json.loads(recipe["run"]["source"])["path"] == "/models/ok"
    with pytest.raises(InvalidInput, match="model 'mine' is unknown; choose one of toy"):
        hub.submit(model="mine", size="full")
    with pytest.raises(InvalidInput, match="no model 'mine' was brought in"):
        hub.client.forget_model("mine")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("refuse", "config.json has the key 'auto_map', which is not allowed"),
        ("mute", "the inspection refused it without a reason"),
        ("garbage", "exit code 0 and without an answer"),
        ("list", "exit code 0 and without an answer"),
        ("nan", "exit code 0 and without an answer"),
        ("deeper", "exit code 0 and without an answer"),
        ("deep", "unusable description"),
        ("deepfacts", "its facts are nested more than 12 deep"),
        ("stranger", "it describes 'llama', which nobody asked for"),
        ("unsized", "unusable description (sizes=[])"),
        ("unworkable", "workload 'forward' of kind 'rm -rf'"),
        ("negative", "batch=-1 of workload forward"),
        ("unregistered", "unusable description"),
        ("disguised", "its registration is of another kind"),
        ("fails", "ended with exit code 1 and without an answer; see inspect.log"),
        ("segfault", "crashed with signal 11"),
        ("flood", "wrote more than 4 MiB"),
    ],
)
def test_whatever_an_inspection_does_is_one_sentence_and_the_hub_goes_on(hub_for_all, what, reason):
    row = hub_for_all.bring(what, name=f"m-{what}")
    assert row["state"] == "refused" and reason in row["reason"] and "\n" not in row["reason"]
    assert f"m-{what}" not in offered(hub_for_all)
    assert hub_for_all.client.status()["banner"] == ""


def test_a_title_that_is_no_unicode_does_not_break_the_catalog(hub_for_all):
    assert hub_for_all.bring("surrogate", name="odd")["state"] == "ready"
    assert offered(hub_for_all)["odd"]["title"] == "broken ? title"


def test_the_inspection_gets_a_built_up_environment_and_nothing_else_of_ours(hub_for_all, monkeypatch):
    hub_for_all.bring(name="env")
    seen = json.loads((hub_for_all.paths.root / "seen.json").read_text())
    assert seen["request"] == {
        "kind": "huggingface", "path": "/models/ok", "name": "env", "labels": "", "allowed_packages": [],
    }  # fmt: skip
    environment = seen["environment"]
    assert environment["HF_HUB_OFFLINE"] == "1" and environment["OMP_NUM_THREADS"] == "1"
    assert environment["HOME"].startswith(str(hub_for_all.paths.cache))
    assert "HYBRID_DATA_DIR" not in environment and "A_SECRET" not in environment
    assert not list(hub_for_all.paths.cache.glob("inspect-*"))


def test_a_double_click_is_one_model_and_one_inspection(hub):
    hub.hold()
    with ThreadPoolExecutor(10) as pool:
        ids = set(pool.map(lambda _: hub.client.bring_model("huggingface", "/models/slow", "mine"), range(20)))
    hub.release()
    assert ids == {hub.wait_for(lambda: (row := hub.brought("mine"))["state"] == "ready" and row)["model_id"]}
    assert hub.client.bring_model("huggingface", "/models/slow", "mine") in ids
    assert inspected(hub) == ["mine"]


def test_a_killed_inspection_is_refused_with_its_cause_and_can_be_asked_again(hub):
    hub.hold()
    hub.client.bring_model("huggingface", "/models/slow", "mine")
    inspecting(hub).send_signal(signal.SIGKILL)
    row = hub.wait_for(lambda: (row := hub.brought("mine"))["state"] == "refused" and row)
    assert "killed by SIGKILL, perhaps because memory ran out" in row["reason"]
    hub.release()
    assert hub.bring("slow")["state"] == "ready"


def test_forgetting_a_model_that_is_inspected_ends_everything_it_started(hub):
    hub.client.bring_model("huggingface", "/models/leaves", "mine")
    inspecting(hub)
    hub.wait_for(lambda: len(hub.processes()) >= 2)
    hub.client.forget_model("mine")
    hub.wait_for(lambda: hub.processes() <= {hub.process.pid})
    assert hub.bring(name="next")["state"] == "ready"


def test_a_hub_that_ends_takes_the_inspection_with_it_and_says_so_afterwards(hub):
    hub.client.bring_model("huggingface", "/models/leaves", "mine")
    inspecting(hub)
    hub.process.send_signal(signal.SIGTERM)
    hub.process.wait(20)
    hub.wait_for(lambda: not hub.processes())
    row = hub.successor().brought("mine")
    assert (row["state"], row["reason"]) == ("refused", INTERRUPTED)


def test_after_a_killed_hub_the_next_ends_the_orphan_refuses_it_and_keeps_what_was_ready(hub):
    assert hub.bring(name="before")["state"] == "ready"
    (hub.paths.root / "seen.json").unlink()
    hub.client.bring_model("huggingface", "/models/leaves", "mine")
    orphan = inspecting(hub)
    hub.kill()
    assert orphan.is_running()
    successor = hub.successor()
    hub.wait_for(lambda: hub.processes() <= {successor.process.pid})
    assert (successor.brought("mine")["state"], successor.brought("mine")["reason"]) == ("refused", INTERRUPTED)
    assert offered(successor)["before"]["brought"] is True
    assert inspected(successor) == ["before", "mine"]
    assert successor.bring("ok", name="mine")["state"] == "ready"


def test_a_size_that_does_not_fit_is_shown_so_and_refused_with_both_figures(hub):
    hub.bring("giant")
    fit = offered(hub)["mine"]["facts"]["full"]["fits"]["cpu"]
    assert fit["fits"] is False and fit["needed_bytes"] == 2**61
    assert fit["available_bytes"] == hub.client.catalog()["devices"][0]["memory_bytes"] <= psutil.virtual_memory().total
    with pytest.raises(InvalidInput, match=r"2 copies of mine full, .* need 2,147,483,648.0 GiB in float32 but"):
        hub.submit(model="mine", size="full")
    assert hub.client.query("runs") == []


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"kind": "pickle"}, "kind='pickle' is unknown; choose one of huggingface, exported, factory"),
        ({"kind": None}, "kind=None is unknown"),
        ({"name": ""}, "name='' is not allowed; use 1 to 40 lower-case letters"),
        ({"name": "Mine"}, "name='Mine' is not allowed"),
        ({"name": "x" * 41}, "is not allowed; use 1 to 40"),
        ({"name": "-mine"}, "beginning with a letter or a digit"),
        ({"name": "../up"}, "name='../up' is not allowed"),
        ({"name": "mine\n"}, "name='mine\\n' is not allowed"),
        ({"name": "<b>"}, "name='<b>' is not allowed"),
        ({"name": ["a"]}, "name=['a'] is not allowed"),
        ({"name": "toy"}, "name 'toy' belongs to a model of the registry"),
        ({"path": ""}, "path='' is not allowed; give a path"),
        ({"path": 7}, "path=7 is not allowed"),
        ({"path": "models/mine"}, "path='models/mine' is not a full path; begin with / or ~"),
        ({"path": "/a\x00b"}, "give a path of at most 4096 printable characters"),
        ({"path": "/a\ud800"}, "printable characters"),
        ({"path": "/" + "x" * 5000}, "give a path of at most 4096"),
        ({"path": "~no-such-user-here/x"}, "names an unknown home"),
        ({"labels": "labels.json"}, "labels='labels.json' is not a full path"),
        ({"kind": "factory", "path": "os.system('x')"}, "is not allowed for a factory; write module:function"),
        ({"kind": "factory", "path": "/tmp/x.py:f"}, "write module:function"),
    ],
)
def test_each_impossible_request_is_one_sentence(request_, sentence):
    with pytest.raises(InvalidInput) as refused:
        check_request({"kind": PLACE[0], "path": PLACE[1], "name": PLACE[2], **request_}, ["toy"])
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_a_request_that_is_refused_leaves_no_row_and_starts_nothing(hub):
    for bad in (("pickle", "/x", "mine"), ("huggingface", "x", "mine"), ("huggingface", "/x", "toy")):
        with pytest.raises(InvalidInput):
            hub.client.bring_model(*bad)
    assert hub.client.query("brought_models") == [] and inspected(hub) == []


def test_code_is_refused_unless_the_hub_was_told_and_the_package_is_listed(hub):
    with pytest.raises(InvalidInput, match=r"importing it is off; stop the hub, start it with --allow-code and write"):
        hub.client.bring_model("factory", "my_package.models:make", "mine")
    (hub.paths.allowed_packages).write_text("my_package\n")
    with pytest.raises(InvalidInput, match="importing it is off"):
        hub.client.bring_model("factory", "my_package.models:make", "mine")
    assert hub.client.status()["allow_code"] is False and hub.client.status()["allowed_packages"] == []


def test_listed_code_is_inspected_with_the_flag_and_refused_again_by_a_hub_without_it(hub, monkeypatch):
    hub.client.stop()
    hub.process.wait(20)
    monkeypatch.setenv("HYBRID_ALLOW_CODE", "1")
    trusting = hub.successor()
    with pytest.raises(InvalidInput, match=r"package 'my_package' is not listed; write it on a line of .*packages.txt"):
        trusting.client.bring_model("factory", "my_package.models:make", "mine")
    hub.paths.allowed_packages.write_text("# ours\nmy_package  # for tests\n\n")
    assert trusting.client.status()["allowed_packages"] == ["my_package"]
    trusting.client.bring_model("factory", "my_package.models:make", "mine")
    trusting.wait_for(lambda: trusting.brought("mine")["state"] == "ready")
    seen = json.loads((hub.paths.root / "seen.json").read_text())["request"]
    assert (seen["path"], seen["allowed_packages"]) == ("my_package.models:make", ["my_package"])
    trusting.hold()
    running = trusting.submit(model="mine", size="full")
    trusting.wait_measuring(running)
    waiting = trusting.submit(model="mine", size="full")
    trusting.client.stop()
    trusting.process.wait(20)
    monkeypatch.delenv("HYBRID_ALLOW_CODE")
    trusting.release()
    careful = trusting.successor()
    with pytest.raises(InvalidInput, match="importing it is off"):
        careful.submit(model="mine", size="full")
    run = careful.wait_over(waiting)
    assert run["state"] == "failed" and "importing it is off" in run["cause"]
    assert f"{waiting}:" not in (hub.paths.root / "measured").read_text()


class FakeClock:
    now = 0.0

    def __call__(self):
        return self.now


def test_an_inspection_that_takes_for_ever_is_ended_with_all_it_started(tmp_path, wait_for, processes):
    import sys
    from pathlib import Path

    from storage.connection import open_database

    paths, clock = DataPaths(tmp_path / "data").prepare(), FakeClock()
    fake = Path(__file__).parent / "fakes" / "fake_inspect.py"
    db = open_database(paths.database)
    keeper = BroughtKeeper(db, paths, (sys.executable, str(fake), str(paths.root)), CodePolicy(paths, {}), clock=clock)
    keeper.bring(check_request({"kind": "huggingface", "path": "/models/leaves", "name": "mine"}, ()))
    keeper.tick()
    wait_for(lambda: len([p for p in processes(tmp_path) if p.pid != os.getpid()]) >= 3)
    keeper.tick()
    assert keeper._running is not None
    clock.now += brought.INSPECT_TIMEOUT_S + 1
    keeper.tick()
    (row,) = brought.brought_models(db)
    assert (row.state, row.reason) == ("refused", "the inspection took more than 180 s and was ended")
    wait_for(lambda: not processes(tmp_path))
    db.close()


def test_a_program_that_cannot_be_started_is_a_reason(tmp_path):
    from storage.connection import open_database

    paths = DataPaths(tmp_path / "data").prepare()
    db = open_database(paths.database)
    keeper = BroughtKeeper(db, paths, ("/no/such/program",), CodePolicy(paths, {}))
    keeper.bring(check_request({"kind": "huggingface", "path": "/models/ok", "name": "mine"}, ()))
    keeper.tick()
    (row,) = brought.brought_models(db)
    assert row.state == "refused" and "it could not be inspected (" in row.reason
    assert not list(paths.cache.iterdir())
    db.close()
