"""Shared by the storage tests: a fresh database and spool folder on a clock that only moves when it is read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.connection import Database, open_database

# importmode=importlib does not put the folder on the path, and sample_events is imported by name.
sys.path.insert(0, str(Path(__file__).parent))

from sample_events import StepClock  # noqa: E402


@pytest.fixture
def clock() -> StepClock:
    return StepClock()


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def db(tmp_path: Path, clock: StepClock) -> Iterator[Database]:
    database = open_database(tmp_path / "history.duckdb", clock)
    yield database
    database.close()
