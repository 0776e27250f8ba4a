"""What the two commands promise: files that agree with each other, and sentences instead of traces."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def requirement_names(name: str) -> set[str]:
    lines = (ROOT / name).read_text().splitlines()
    return {
        re.split(r"[=<>~! ]", line)[0].lower().replace("_", "-") for line in lines if line and not line.startswith("#")
    }


def test_every_requirement_is_locked_to_one_version() -> None:
    locked = requirement_names("requirements.lock")
    assert requirement_names("requirements.txt") <= locked
    assert requirement_names("requirements-dev.txt") <= locked
    lines = [x for x in (ROOT / "requirements.lock").read_text().splitlines() if x and not x.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)


def test_torch_is_pinned_exactly_and_comes_first() -> None:
    first = next(x for x in (ROOT / "requirements.txt").read_text().splitlines() if x and not x.startswith("#"))
    assert first == "torch==2.13.0"


def fresh_tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / ".setup").mkdir(parents=True)
    for name in (".setup/install.sh", "requirements.txt", "requirements-dev.txt", "requirements.lock"):
        shutil.copy(ROOT / name, tree / name)
    return tree


def fake_python(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "fakepython"
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ('case "$*" in *version_info*3,\\ 11*) exit 1;; *) echo Python 3.9.2;; esac', "too old; Python 3.11 or newer"),
        ('case "$*" in *ensurepip*) exit 1;; *join*|*%d*) echo 3.11;; *) exit 0;; esac', "apt install python3.11-venv"),
    ],
    ids=["old python", "no ensurepip"],
)
def test_a_missing_prerequisite_is_one_sentence(tmp_path: Path, body: str, sentence: str) -> None:
    tree = fresh_tree(tmp_path)
    env = {**os.environ, "PYTHON": str(fake_python(tmp_path, body))}
    done = subprocess.run([tree / ".setup/install.sh"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_python_is_one_sentence(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHON": "no-such-python"}
    done = subprocess.run(
        [fresh_tree(tmp_path) / ".setup/install.sh"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "'no-such-python' was not found" in done.stderr
