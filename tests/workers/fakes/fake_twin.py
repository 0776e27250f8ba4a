"""A twin with a clock of its own: 7 ms per sample; the first argument says what it does instead."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from workers.protocol import MAX_REQUEST_BYTES, PeerGone, encode_frame, read_frame

behaviour, answer_fd = sys.argv[1], int(sys.argv[-1])


def ask():
    return read_frame(lambda size: os.read(0, size), MAX_REQUEST_BYTES)


def tell(answer):
    os.write(answer_fd, encode_frame(answer))


if behaviour == "dies at once":
    sys.exit(3)
ask()
if behaviour == "cannot build":
    tell({"failed": "failed: no such model"})
    sys.exit(0)
tell({"ready": True, "environment": sorted(os.environ), "group": os.getpgrp()})
try:
    while True:
        question = ask()
        if behaviour == "dies later":
            os.kill(os.getpid(), 9)
        if behaviour == "talks nonsense":
            os.write(answer_fd, b"\x00\x00\x00\x05hello")
        variables = [name for name in os.environ if name.startswith("TEST_START_")]
        reading = {"wall_ms": 8.0, "own_ms": 7.0, "waited_ms": 0.5}
        tell({"ms": 7.0 + len(variables), "resident_bytes": question["repeats"], "reading": reading})
except PeerGone:
    Path(sys.argv[2]).write_text("left by itself")
