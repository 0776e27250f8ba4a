"""A stored trial is measured again as it was ordered, stored apart, and compared; real hub, fake numbers."""

import json
from dataclasses import replace

import pytest

from hybrid_core.records import Measurement, MeasureRequest, Outcome, Purpose, Trial
from workers import repeat_command
from workers.__main__ import main
from workers.repeating import repeating


@pytest.fixture(scope="module")
def finished(hub_for_all):
    """A run of seed 7 and two threads that is over."""
    run_id = hub_for_all.submit(seed=7, threads=2)
    assert hub_for_all.wait_over(run_id)["state"] == "finished"
    return run_id


@pytest.fixture
def hub(hub_for_all, finished, monkeypatch):
    monkeypatch.setenv("HYBRID_DATA_DIR", str(hub_for_all.paths.root))
    return hub_for_all


def order_of(hub, trial_id):
    """The order that a stored trial remembers."""
    text = hub.client.query("trial", trial_id=trial_id)[0]["measurement_json"]
    return MeasureRequest.from_json(json.loads(text)["environment"]["request"])


def repeated_run(hub, trial_id):
    runs = hub.client.query("runs")
    return next(run for run in runs if json.loads(run["config_json"])["repeats"] == trial_id)


def test_a_trial_is_ordered_again_exactly_and_stored_apart_from_what_counts(hub, finished, capsys):
    original = f"{finished}:search:quantization=one"
    before = [hub.client.query(name) for name in ("leaderboard", "history")]
    assert main(["repeat", original]) == 0
    printed = capsys.readouterr()
    assert "speed" in printed.out and "1.5 [1.4, 1.6]" in printed.out and "inside" in printed.out
    assert printed.out.strip().endswith("accuracy kept 1.500 lies inside 1.400 to 1.600")
    run = repeated_run(hub, original)
    again = f"{run['run_id']}:repeat:quantization=one"
    assert f"stored as {again}" in printed.out and f"run {run['run_id']} measures it again" in printed.err
    then, now = order_of(hub, original), order_of(hub, again)
    assert replace(now, trial_id=then.trial_id, run_id=then.run_id, purpose=then.purpose) == then
    assert (then.subject.seed, then.subject.threads) == (7, 2) and now.purpose is Purpose.REPEAT
    assert [hub.client.query(name) for name in ("leaderboard", "history")] == before
    assert (run["state"], run["winner_key"], run["trials"]) == ("finished", None, 1)
    assert run["cause"].startswith(f"{original} measured again: it agrees")


def test_other_figures_are_a_disagreement_with_exit_code_1(hub, finished, capsys):
    original = f"{finished}:final:quantization=two"
    (hub.paths.root / "faster").touch()
    code = main(["repeat", original])
    (hub.paths.root / "faster").unlink()
    assert code == 1
    printed = capsys.readouterr().out
    assert "it does not agree: speed 3.000 differs from 1.400 to 1.600" in printed


def test_it_waits_while_a_run_measures_on_its_device(hub, finished, capsys):
    original = f"{finished}:search:quantization=one"
    hub.hold()
    busy = hub.submit()
    hub.wait_measuring(busy)
    client = hub.client
    run_id = client.submit(repeat_command.order_of(client, repeat_command.stored(client, original)))
    repeat_command.tell_wait(client, run_id, repeat_command.stored(client, original))
    assert f"cpu is measured on by run {busy}, this waits for it" in capsys.readouterr().err
    assert hub.run(run_id)["state"] == "queued"
    hub.release()
    assert hub.wait_over(run_id)["state"] == "finished"
    measured = (hub.paths.root / "measured").read_text().split()
    assert measured.index(f"{busy}:final:quantization=two") < measured.index(f"{run_id}:repeat:quantization=one")


@pytest.mark.parametrize(
    ("trial", "sentence"),
    [("nowhere:search:quantization=one", "does not exist"), ("{run}:search:quantization=three", "is unknown")],
)
def test_what_cannot_be_repeated_is_refused_with_its_reason(hub, finished, capsys, monkeypatch, trial, sentence):
    if "{run}" in trial:
        ask = repeat_command.order_of
        monkeypatch.setattr(repeat_command, "order_of", lambda *given: {**ask(*given), "device": "cuda:3"})
    assert main(["repeat", trial.format(run=finished)]) == 2
    assert sentence in capsys.readouterr().err


def test_another_processor_needs_a_word_of_consent(hub, finished, capsys, monkeypatch):
    original = f"{finished}:search:quantization=one"
    monkeypatch.setattr(repeat_command, "elsewhere", lambda *_: ["the version of torch was 1, now it is 2"])
    assert main(["repeat", original]) == 2
    assert "add --anyway to measure all the same" in capsys.readouterr().err
    monkeypatch.setattr(
        repeat_command.terminal, "follow", lambda client, run_id, _: client.query("run", run_id=run_id)[0]
    )
    assert main(["repeat", original, "--anyway"]) == 2
    printed = capsys.readouterr().err
    assert "measuring all the same" in printed and "it was not measured again: run" in printed


def test_a_request_for_another_model_than_the_trial_had_is_refused(hub, finished):
    original = f"{finished}:search:quantization=one"
    client = hub.client
    order = repeat_command.order_of(client, repeat_command.stored(client, original))
    with pytest.raises(repeat_command.InvalidInput, match="the trial to repeat was measured with 'toy'"):
        client.submit({**order, "size": "full", "model": "mine"} if hub.bring() else order)


class Recorder:
    """Stands for the run process: measures by answering with what it is given, and keeps what is told."""

    def __init__(self, answers):
        self.answers, self.told, self.asked, self.data = list(answers), [], [], {}

    def measure(self, recipe, purpose, limits, round_number=0):
        self.asked.append((recipe.key, purpose, limits, round_number))
        return self.answers.pop(0)

    def emit(self, kind, data):
        self.told.append(kind)
        self.data[kind] = data


def three_processes(hub, run_id):
    """A stored measurement as a final of three processes leaves it, with its order."""
    text = hub.client.query("trial", trial_id=f"{run_id}:search:quantization=one")[0]["measurement_json"]
    measurement = json.loads(text)
    measurement["environment"]["rounds"] = [{"ratio": 1.5}] * 3
    return measurement, MeasureRequest.from_json(measurement["environment"]["request"])


def test_a_trial_of_several_processes_is_repeated_in_as_many_that_become_one_trial(hub, finished):
    measurement, request = three_processes(hub, finished)
    figures = Measurement.from_json(measurement)
    rounds = [
        Trial(f"r9:repeat.{number}:x", "r9", request.recipe, Purpose.REPEAT, Outcome.OK, measurement=figures)
        for number in (1, 2, 3)
    ]
    recorder = Recorder(rounds)
    search = repeating({"trial_id": "x", "measurement": measurement})
    ended = search(None, None, recorder.measure, recorder.emit, run_id="r9")
    assert [asked[3] for asked in recorder.asked] == [1, 2, 3] and recorder.told.count("round_finished") == 3
    stored = recorder.data["trial_finished"]["trial"]
    assert (
        stored["trial_id"] == "r9:repeat:quantization=one" and len(stored["measurement"]["environment"]["rounds"]) == 3
    )
    assert ended.sentence.startswith("x measured again: it agrees") and ended.winner is None
    assert [finding["verdict"] for finding in recorder.data["result"]["findings"]] == ["inside"] * 3


def test_a_process_that_fails_ends_the_repetition_which_does_not_agree(hub, finished):
    measurement, request = three_processes(hub, finished)
    crashed = Trial("r9:repeat.1:x", "r9", request.recipe, Purpose.REPEAT, Outcome.CRASHED, "it broke")
    search = repeating({"trial_id": "x", "measurement": measurement})
    ended = search(None, None, (recorder := Recorder([crashed])).measure, recorder.emit, run_id="r9")
    assert "this time it ended as crashed" in ended.sentence and "it broke" in ended.sentence
    assert [asked[3] for asked in recorder.asked] == [1] and recorder.asked[0][2] == request.limits
