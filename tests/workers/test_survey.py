"""A survey's process may end as it likes: what it answered is kept, and nothing of it is left."""

import sys
import textwrap

import psutil
import pytest

from hybrid_core.records import Step, Subject, Workload
from workers.engines.survey import run_survey

STEPS = [Step("quantization", name) for name in ("one", "two", "three")]
SUBJECT = Subject("toy", "tiny", Workload("forward", "forward", 2))
TELL = """
import os, sys, time
sys.path.insert(0, {root!r})
from workers.protocol import encode_frame, read_frame
fd = int(sys.argv[sys.argv.index("--result-fd") + 1])
order = read_frame(lambda size: os.read(0, size), 1 << 20)
def tell(key, reason):
    os.write(fd, encode_frame({{"step": key, "unsupported": reason, "seconds": 0.0}}))
tell(order["steps"][0], "it is odd")
tell(order["steps"][1], None)
{rest}
"""


@pytest.fixture
def ask(tmp_path, request):
    def go(rest, limit_s=20.0):
        program = tmp_path / "survey.py"
        program.write_text(textwrap.dedent(TELL).format(root=str(request.config.rootpath), rest=rest))
        return run_survey((sys.executable, str(program)), SUBJECT, STEPS, limit_s, tmp_path / "s", tmp_path / "log")

    return go


def test_all_answers_are_taken_and_nothing_is_wrong(ask):
    found = ask('tell(order["steps"][2], None); os.write(fd, encode_frame({"done": True})); time.sleep(60)')
    assert found.unsupported == {Step("quantization", "one"): "it is odd"}
    assert (found.answered, found.problem) == (3, "")


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("os.kill(os.getpid(), 11)", "ended before it had asked everything"),
        ("os.write(fd, b'garbage that is no frame at all')", "could not be read"),
        ('os.write(fd, encode_frame({"done": True})); time.sleep(60)', "1 setting could not be asked"),
    ],
)
def test_a_survey_that_breaks_off_keeps_what_it_answered(ask, rest, problem):
    found = ask(rest)
    assert found.unsupported == {Step("quantization", "one"): "it is odd"} and found.answered == 2
    assert problem in found.problem


def test_a_survey_that_hangs_is_ended_at_its_limit(ask, tmp_path):
    found = ask("time.sleep(600)", limit_s=1.5)
    assert "took more than 2 s and was ended" in found.problem and found.seconds < 15
    lines = [" ".join(p.cmdline()) for p in psutil.process_iter() if p.is_running() and _readable(p)]
    assert not any(str(tmp_path / "survey.py") in line for line in lines)


def test_a_program_that_cannot_be_started_is_a_sentence(tmp_path):
    found = run_survey((str(tmp_path / "absent"),), SUBJECT, STEPS, 5.0, tmp_path / "s", tmp_path / "log")
    assert found.unsupported == {} and "could not be started (No such file" in found.problem


def _readable(process):
    try:
        process.cmdline()
    except psutil.Error:
        return False
    return True
