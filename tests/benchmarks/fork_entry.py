"""What a forked child runs in the tests: answers, or does to its process what a bad candidate does."""

import os
import signal
import subprocess
import sys
import time

from hybrid_core.records import MeasureRequest, Outcome, Trial, to_json
from workers.measure_process import leave_with_parent, take_standard_input, write_all
from workers.protocol import MAX_REQUEST_BYTES, encode_frame, read_frame

COUNT = [0]


def main(arguments: list[str]) -> int:
    result_fd = int(arguments[1])
    os.set_inheritable(result_fd, False)
    request = MeasureRequest.from_json(read_frame(lambda size: os.read(0, size), MAX_REQUEST_BYTES))
    leave_with_parent(take_standard_input())
    write_all(result_fd, encode_frame({"phase": "timing"}))
    what = request.recipe.steps[0].setting
    COUNT[0] += 1
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "raise":
        raise ZeroDivisionError("in the child")
    if what == "hang":
        print(f"pid {os.getpid()}", flush=True)
        time.sleep(300)
    if what == "leave":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        print(f"left {child.pid}", flush=True)
    reason = f"{COUNT[0]} {os.environ.get('COLOUR')} {os.environ['HYBRID_TRIAL_COOKIE'].split('/')[0]}"
    names = (request.trial_id, request.run_id, request.recipe, request.purpose)
    write_all(result_fd, encode_frame({"trial": to_json(Trial(*names, Outcome.UNSUPPORTED, reason))}))
    return 0
