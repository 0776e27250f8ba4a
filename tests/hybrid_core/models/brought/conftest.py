"""Folders as `transformers` itself saves them, from small random models, made once for all tests of this folder."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hybrid_core.models.brought.saved_models import save_model

logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model by its name in MODELS; never changed by a test."""
    top, made = tmp_path_factory.mktemp("saved"), {}

    def folder_of(name: str) -> Path:
        if name not in made:
            made[name] = save_model(name, top / name)
        return made[name]

    return folder_of


@pytest.fixture
def folder(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the small Llama's folder that a test may spoil."""
    copy = tmp_path / "model"
    shutil.copytree(saved("llama"), copy)
    return copy


@pytest.fixture
def edit_config(folder: Path) -> Callable[..., Path]:
    """Change keys of the copy's config.json."""

    def edit(**changes: Any) -> Path:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return folder

    return edit
