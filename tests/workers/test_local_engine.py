"""Whatever a candidate does to its process becomes a trial that names it, and nothing of it is left behind."""

import re
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from hybrid_core.records import MeasureLimits, MeasureRequest, Outcome, Purpose, Recipe, Subject, Workload
from workers.engines.containment import KEPT_VARIABLES, measure_environment
from workers.engines.local import LocalEngine

FAKE = Path(__file__).parent / "fakes" / "fake_measure.py"


@pytest.fixture
def engine(tmp_path):
    return LocalEngine((sys.executable, str(FAKE), str(tmp_path)), tmp_path / "scratch", tmp_path / "log")


def request(setting, **limits):
    subject = Subject("toy", "tiny", Workload("forward", "forward", 2))
    recipe = Recipe.from_dict({"quantization": setting})
    trial_id = f"run1:search:{recipe.key}"
    return MeasureRequest(trial_id, "run1", subject, recipe, Purpose.SEARCH, MeasureLimits(**limits))


def test_a_measured_candidate_comes_back_whole_with_our_clock(engine):
    phases, before = [], time.time()
    trial = engine.measure(request("one"), phases.append)
    assert trial.outcome is Outcome.OK and trial.measurement.pairs_ms == ((1.0, 2.0),)
    assert phases == ["transform", "timing"]
    assert before <= trial.started_at <= time.time() and 0 < trial.seconds <= time.time() - before
    assert set(trial.phases_s) == {"start", "transform", "timing", "end"}
    assert sum(trial.phases_s.values()) == pytest.approx(trial.seconds, abs=0.01)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("garbage", r"its answer could not be read \(the message is not JSON"),
        ("huge", r"its answer could not be read \(a message of 4,294,967,295 bytes is not allowed"),
        ("half", r"ended with exit code 0 while in transform without a result"),
        ("nothing", r"ended with exit code 0 while in transform without a result"),
        ("segfault", r"crashed with SIGSEGV while in transform"),
        ("killed", r"killed by SIGKILL while in transform, perhaps by the out-of-memory killer"),
        ("stranger", r"its answer could not be read \(it answers 'another:search:x', which nobody asked"),
        ("raises", r"ended with exit code 1 while in transform without a result"),
    ],
)
def test_a_process_that_ends_badly_is_a_crashed_trial_with_its_cause(engine, setting, reason):
    trial = engine.measure(request(setting))
    assert trial.outcome is Outcome.CRASHED and trial.stage == "transform" and trial.measurement is None
    assert re.match(reason, trial.reason), trial.reason


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (
            "long_pairs",
            r"its clock disagrees with the parent's: its 2 timed pairs add up to 80.0 s, but the phase .* here",
        ),
        ("many_calls", r"its clock disagrees with the parent's: its 4 timed pairs add up to 80.0 s"),
        ("long_phase", r"its clock disagrees with the parent's: timing took 30.0 s there and \d+\.\d s here"),
        ("unseen_phase", r"its clock disagrees with the parent's: quality took 30.0 s there and 0.0 s here"),
        ("stopped_clock", r"its clock disagrees with the parent's: timing took 0.0 s there and \d+\.\d s here"),
        ("zero", r"its times are rejected: pair 2 of 2 is 1.0 and 0.0 ms"),
        ("negative", r"its times are rejected: pair 1 of 1 is -1.0 and 2.0 ms"),
        ("not_a_number", r"its times are rejected: pair 1 of 1 is 1.0 and nan ms"),
        ("no_pairs", r"its times are rejected: it says it was measured, but gives no timed pair"),
    ],
)
def test_a_process_that_lies_about_time_is_not_believed(engine, setting, reason):
    trial = engine.measure(request(setting))
    assert trial.outcome is Outcome.UNSTABLE and trial.measurement is None
    assert re.match(reason, trial.reason), trial.reason


def test_claims_that_agree_with_our_clock_are_believed(engine):
    trial = engine.measure(request("fair"))
    assert trial.outcome is Outcome.OK and len(trial.measurement.pairs_ms) == 8, trial.reason


def test_a_hanging_transformation_is_a_timeout_of_its_phase_even_if_it_ignores_signals(engine):
    trial = engine.measure(request("deaf", transform_timeout_s=0.3, total_timeout_s=60))
    assert (trial.outcome, trial.reason) == (Outcome.TIMEOUT, "timed out in transform after 0 s")
    assert trial.seconds < 30


def test_the_whole_measurement_has_a_deadline_too(engine):
    trial = engine.measure(request("hang", transform_timeout_s=100, total_timeout_s=1))
    assert trial.reason == "timed out in transform: the whole measurement took more than 1 s"


def test_the_first_of_two_answers_counts(engine):
    assert engine.measure(request("twice")).reason == "first"


def test_grandchildren_are_ended_even_when_they_left_the_process_group(engine):
    trial = engine.measure(request("leaves"))
    assert trial.reason == "crashed with SIGSEGV while in transform"
    left = [int(line.split()[1]) for line in trial.log_tail.splitlines() if line.startswith("left ")]
    assert len(left) == 2
    for pid in left:
        with_end = psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        assert not with_end, f"{pid} lives on"


def test_a_flood_of_output_neither_blocks_nor_fills_the_disk_and_its_end_is_kept(engine, tmp_path):
    trial = engine.measure(request("talks"))
    assert trial.reason.startswith("ended with exit code 7")
    assert trial.log_tail.endswith("last words\n") and len(trial.log_tail) <= 4000
    assert (tmp_path / "log").stat().st_size < 300_000


def test_kill_from_another_thread_ends_the_measurement_at_once(engine):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(engine.measure(request("hang"))))
    thread.start()
    deadline = time.monotonic() + 20
    while not answers and time.monotonic() < deadline:
        engine.kill()
        time.sleep(0.05)
    thread.join(20)
    assert answers[0].outcome is Outcome.CRASHED and "SIGKILL" in answers[0].reason


def test_a_program_that_cannot_be_started_is_a_trial_and_not_an_exception(tmp_path):
    engine = LocalEngine((str(tmp_path / "missing"),), tmp_path / "scratch", tmp_path / "log")
    trial = engine.measure(request("one"))
    assert trial.reason == "the measure process could not be started (No such file or directory)"


def test_the_environment_is_built_up_and_carries_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("HTTPS_PROXY", "x")
    environment = measure_environment(tmp_path / "scratch", 3, "cookie")
    ours = {
        "HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS",
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_DEVICE_ORDER", "HF_HUB_OFFLINE",
        "PYTHONUNBUFFERED", "HYBRID_TRIAL_COOKIE", "HYBRID_TRIAL_SCRATCH",
    }  # fmt: skip
    assert set(environment) <= ours | set(KEPT_VARIABLES)
    assert environment["OMP_NUM_THREADS"] == "3" and environment["OMP_WAIT_POLICY"] == "PASSIVE"
    for name in ("HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert Path(environment[name]).stat().st_mode & 0o777 == 0o700
        assert Path(environment[name]).is_relative_to(tmp_path)
