"""The real measure process with a measurement of our own, steered by the recipe and by files in the first argument.

Each measurement adds a line to `measured`; setting "two" waits while a file `hold` exists. The settings of `FAULTS` do
to the process what bad candidates do.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from hybrid_core.records import Estimate, Measurement, Outcome, Quality, Trial
from workers import measure_process
from workers.protocol import encode_frame

ONE = Estimate(1.5, 1.4, 1.6)
result_fd = int(sys.argv[-1])


def measurement():
    """The same figures every time, twice the speed where a file `faster` lies in the folder."""
    quality = Quality("digit accuracy", 64, Estimate.exact(0.9), Estimate.exact(0.9))
    names = dict.fromkeys(("speed_improvement", "memory_efficiency", "accuracy_preservation"), ONE)
    if (Path(sys.argv[1]) / "faster").exists():
        names["speed_improvement"] = Estimate(3.0, 2.8, 3.2)
    counts = dict.fromkeys(("peak_bytes", "baseline_peak_bytes", "weight_bytes", "baseline_weight_bytes"), 100)
    return Measurement(
        **names, **counts, latency_ms=ONE, baseline_latency_ms=ONE, resident_bytes=1, first_call_s=0.1,
        baseline_first_call_s=0.1, break_even_calls=None, quality=quality, max_abs_error=0.0, stop_reason="sure",
        pairs_ms=((1.0, 2.0),), changes=("none",), warnings=(), environment={"torch": "none"},
    )  # fmt: skip


def answer(request, **changes):
    values = {
        "trial_id": request.trial_id, "run_id": request.run_id, "recipe": request.recipe, "purpose": request.purpose,
        "outcome": Outcome.OK, "measurement": measurement(), **changes,
    }  # fmt: skip
    return Trial(**values)


def raw(data):
    os.write(result_fd, data)
    os._exit(0)


def leave_grandchildren(request):
    """One in our group, one that left it with setsid; both would live for minutes."""
    code = "import time; time.sleep(300)"
    for new_session in (False, True):
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=new_session)
        print(f"left {child.pid}", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def talk(request):
    for _ in range(3000):
        print("x" * 1000)
    print("last words", flush=True)
    os._exit(7)


def claiming(pairs=((1.0, 2.0),), calls=1, phases=None, pause_s=0.0):
    """An answer from a timed phase of our own length that claims other seconds or other pairs."""

    def fault(request, on_phase):
        on_phase("timing")
        started = time.monotonic()
        time.sleep(pause_s)
        on_phase("memory")
        changed = replace(measurement(), pairs_ms=pairs, environment={"calls_per_sample": calls})
        honest = {"timing": time.monotonic() - started, "memory": 0.0}
        trial = measure_process.to_json(answer(request, measurement=changed, phases_s=phases or honest))
        trial["measurement"]["pairs_ms"] = pairs  # `to_json` would have made null of what is no number
        body = json.dumps({"trial": trial}).encode()
        raw(len(body).to_bytes(4, "big") + body)

    return fault


CLAIMS = {
    "long_pairs": claiming(pairs=((20_000.0, 20_000.0),) * 2),
    "many_calls": claiming(pairs=((100.0, 100.0),) * 4, calls=100),
    "long_phase": claiming(phases={"timing": 30.0}),
    "unseen_phase": claiming(phases={"quality": 30.0}),
    "stopped_clock": claiming(phases={"timing": 0.0}, pause_s=1.5),
    "zero": claiming(pairs=((1.0, 2.0), (1.0, 0.0))),
    "negative": claiming(pairs=((-1.0, 2.0),)),
    "not_a_number": claiming(pairs=((1.0, float("nan")),)),
    "no_pairs": claiming(pairs=()),
    "fair": claiming(pairs=((1.0, 2.0),) * 8, calls=10, pause_s=0.3),
}

FAULTS = {
    "garbage": lambda request: raw(b"\x00\x00\x00\x05hello"),
    "huge": lambda request: raw(b"\xff\xff\xff\xff"),
    "half": lambda request: raw(b"\x00\x00\x10\x00{"),
    "nothing": lambda request: os._exit(0),
    "segfault": lambda request: os.kill(os.getpid(), signal.SIGSEGV),
    "killed": lambda request: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda request: time.sleep(300),
    "deaf": lambda request: (signal.signal(signal.SIGTERM, signal.SIG_IGN), time.sleep(300)),
    "closes": lambda request: (os.close(result_fd), time.sleep(300)),
    "stranger": lambda request: answer(request, trial_id="another:search:x"),
    "leaves": leave_grandchildren,
    "talks": talk,
    "raises": lambda request: 1 / 0,
    "twice": lambda request: (
        os.write(result_fd, encode_frame({"trial": measure_process.to_json(answer(request, reason="first"))})),
        answer(request, reason="second"),
    )[1],
}


def measure(request, on_phase):
    folder = Path(sys.argv[1])
    with (folder / "measured").open("a") as ledger:
        ledger.write(f"{request.trial_id}\n")
    with (folder / "subjects").open("a") as subjects:
        subjects.write(json.dumps(measure_process.to_json(request.subject)) + "\n")
    on_phase("transform")
    setting = request.recipe.steps[0].setting if request.recipe.steps else ""
    if setting in FAULTS:
        return FAULTS[setting](request)
    if setting in CLAIMS:
        return CLAIMS[setting](request, on_phase)
    while setting == "two" and (folder / "hold").exists():
        time.sleep(0.02)
    on_phase("timing")
    return answer(request)


if __name__ == "__main__":
    sys.exit(measure_process.main(sys.argv[2:], measure))
