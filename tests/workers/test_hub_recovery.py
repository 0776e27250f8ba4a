"""Nothing measured is lost or doubled and nothing runs for ever, whoever is killed when. Real processes."""

import json
import os
import signal
import threading

import psutil

from workers.client import ensure_hub

ALL_TRIALS = {
    "baseline:baseline",
    "search:quantization=one",
    "search:quantization=two",
    "search:quantization=three",
    "final:baseline",
    "final:quantization=two",
}


def measured(paths, run_id):
    lines = (paths.root / "measured").read_text().split()
    return sorted(line.removeprefix(f"{run_id}:") for line in lines if line.startswith(run_id))


def stored(hub, run_id):
    return [row["trial_id"].removeprefix(f"{run_id}:") for row in hub.client.query("trials", run_id=run_id)]


def kinds(hub, run_id):
    return [row["kind"] for row in hub.client.query("events", run_id=run_id, limit=5000)]


def assert_finished_exactly_once(hub, run_id):
    run = hub.wait_over(run_id)
    assert (run["state"], run["cause"]) == ("finished", "two is the best")
    assert sorted(stored(hub, run_id)) == sorted(ALL_TRIALS)
    told = kinds(hub, run_id)
    assert told.count("trial_finished") == len(ALL_TRIALS) and told.count("selection") == 3
    assert run["winner_key"] == "quantization=two" and run["speed"] == 1.5


def assert_only_the_hub_is_left(hub):
    hub.wait_for(lambda: hub.processes() <= {hub.process.pid})


def test_twelve_simultaneous_starters_give_one_hub(paths, wait_for, processes):
    clients = []
    threads = [threading.Thread(target=lambda: clients.append(ensure_hub(paths))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clients) == 12 and all(client.is_reachable() for client in clients)
    holder = int(paths.lock.read_text())
    wait_for(lambda: {p.pid for p in processes(paths.root)} == {holder})
    clients[0].stop()
    wait_for(lambda: not processes(paths.root))


def test_a_run_goes_from_the_queue_to_its_winner(hub):
    run_id = hub.submit()
    assert_finished_exactly_once(hub, run_id)
    assert measured(hub.paths, run_id) == sorted(ALL_TRIALS)
    assert_only_the_hub_is_left(hub)
    assert not (hub.paths.cache / run_id).exists()
    handed = hub.client.handover(run_id)
    assert json.loads(handed["recipe_json"])["recipe"] == {"quantization": "two"} and "apply_recipe" in handed["code"]


def test_the_same_token_twice_is_one_run_and_a_second_run_waits_for_the_device(hub):
    hub.hold()
    config = {"model": "toy", "options": {"optimization_strategies": ["quantization"]}}
    first = hub.client.submit(config, token="click")
    assert hub.client.submit(config, token="click") == first
    second = hub.client.submit(config, token="another")
    hub.wait_measuring(first)
    assert hub.run(second)["state"] == "queued"
    assert hub.client.cancel(second) == f"Run {second} was cancelled before it started."
    assert hub.client.cancel(second) == f"Run {second} was over already: it is cancelled."
    hub.release()
    assert_finished_exactly_once(hub, first)
    assert {row["run_id"] for row in hub.client.query("runs")} == {first, second}
    assert hub.run(second)["state"] == "cancelled" and stored(hub, second) == []


def test_a_run_survives_the_death_of_its_hub_and_the_next_hub_takes_it_over(hub):
    hub.hold()
    run_id = hub.submit()
    run_process, measure_process = hub.wait_measuring(run_id)
    hub.kill()
    successor = hub.successor()
    assert successor.run(run_id)["state"] == "running" and successor.worker(run_id) == run_process.pid
    assert measure_process.is_running()
    hub.release()
    assert_finished_exactly_once(successor, run_id)
    assert measured(hub.paths, run_id) == sorted(ALL_TRIALS)
    assert_only_the_hub_is_left(successor)


def test_results_written_while_no_hub_lives_are_taken_in_by_the_next(hub):
    hub.hold()
    run_id = hub.submit()
    run_process, _ = hub.wait_measuring(run_id)
    hub.kill()
    hub.release()
    hub.wait_for(lambda: not run_process.is_running())
    assert_finished_exactly_once(hub.successor(), run_id)


def test_a_killed_run_process_is_replaced_and_its_finished_trials_are_not_measured_again(hub):
    hub.hold()
    run_id = hub.submit()
    run_process, measure_process = hub.wait_measuring(run_id)
    run_process.kill()
    hub.wait_for(lambda: not measure_process.is_running())
    hub.wait_for(lambda: (pid := hub.worker(run_id)) and pid != run_process.pid)
    hub.release()
    assert_finished_exactly_once(hub, run_id)
    # Only the trial that was being measured when the process died was measured twice.
    assert measured(hub.paths, run_id) == sorted([*ALL_TRIALS, "search:quantization=two"])
    assert [row["attempt"] for row in hub.client.query("workers")] == [2, 1]


def test_a_run_that_loses_its_process_twice_fails_with_the_cause(hub):
    hub.hold()
    run_id = hub.submit()
    first, _ = hub.wait_measuring(run_id)
    first.kill()
    second = psutil.Process(hub.wait_for(lambda: (pid := hub.worker(run_id)) != first.pid and pid))
    second.kill()
    run = hub.wait_over(run_id)
    assert run["state"] == "failed"
    assert f"process {second.pid} was killed by SIGKILL, 2 times in all" in run["cause"]
    assert_only_the_hub_is_left(hub)


def test_hub_and_run_process_killed_together_leave_nothing_running_and_the_run_goes_on(hub):
    hub.hold()
    run_id = hub.submit()
    run_process, _ = hub.wait_measuring(run_id)
    hub.kill()
    run_process.kill()
    successor = hub.successor()
    hub.release()
    assert_finished_exactly_once(successor, run_id)


def test_a_killed_measure_process_is_a_failed_trial_and_the_run_goes_on(hub):
    hub.hold()
    run_id = hub.submit()
    _, measure_process = hub.wait_measuring(run_id)
    os.kill(measure_process.pid, signal.SIGKILL)
    hub.release()
    assert hub.wait_over(run_id)["state"] == "finished"
    row = next(
        r for r in hub.client.query("trials", run_id=run_id) if r["trial_id"].endswith("search:quantization=two")
    )
    assert row["outcome"] == "crashed" and row["reason"].startswith("killed by SIGKILL while in transform")
    assert sorted(stored(hub, run_id)) == sorted(ALL_TRIALS)


def test_a_cancelled_run_ends_at_once_and_leaves_no_process(hub):
    hub.hold()
    run_id = hub.submit()
    hub.wait_measuring(run_id)
    assert "is being cancelled" in hub.client.cancel(run_id)
    run = hub.wait_over(run_id)
    assert (run["state"], run["cause"]) == ("cancelled", "cancelled by request")
    assert stored(hub, run_id) == ["baseline:baseline", "search:quantization=one"]
    assert_only_the_hub_is_left(hub)


def test_cancelling_a_stopped_process_that_cannot_answer_kills_it(hub, monkeypatch):
    hub.hold()
    run_id = hub.submit()
    run_process, _ = hub.wait_measuring(run_id)
    run_process.suspend()
    hub.client.cancel(run_id)
    run = hub.wait_over(run_id)
    assert (run["state"], run["cause"]) == ("cancelled", "cancelled; the process had to be ended by force")
    assert_only_the_hub_is_left(hub)


def test_stop_cancels_what_runs_keeps_what_waits_and_leaves_no_process(hub):
    hub.hold()
    running, waiting = hub.submit(), hub.submit()
    hub.wait_measuring(running)
    assert "1 running run(s) are cancelled. 1 waiting run(s) stay" in hub.client.stop()
    assert hub.process.wait(20) == 0
    hub.wait_for(lambda: not hub.processes())
    hub.release()
    successor = hub.successor()
    assert successor.run(running)["cause"] == "cancelled because the hub was stopped"
    assert_finished_exactly_once(successor, waiting)
