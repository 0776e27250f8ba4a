"""Writing the folder: the model is built and optimized once more, and what came out is what is stored.

A module that holds a package of its own (an AOTInductor library, an ONNX or OpenVINO model) offers it through
`export_files() -> {file name: bytes or path}`; a compiled library may be named by an attribute `package_path` instead.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.export import files
from hybrid_core.export.card import card_of
from hybrid_core.export.rebuilding import Source, optimize, situation_in, source_of
from hybrid_core.export.script import SCRIPT_TEXT
from hybrid_core.export.weights import write_weights
from hybrid_core.measurement.process_state import restored_state
from hybrid_core.records import to_json

_PACKAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,90}", re.ASCII)
LIBRARY = "model.pt2"
Told = Callable[[str], None]


def export_folder(
    target: str | Path,
    exported: Mapping[str, Any],
    model: nn.Module | None = None,
    example_inputs: Any = None,
    *,
    allow_code: bool = False,
    scratch: Path | None = None,
    tell: Told = lambda phase: None,
) -> Path:
    """Write a folder to take home and return its path; `exported` is what `handover.recipe_json` gives.

    `model` and `example_inputs` are the untouched module and its inputs where the recipe was found on a module of one's
    own. `tell` hears each phase as it begins.

    Raises:
        InvalidInput: the recipe, the model or the folder is not what it must be, or the disk is full.
        StrategyUnsupported: a step cannot be applied on this machine.
    """
    tell("checking")
    source = source_of(exported, model, example_inputs, allow_code=allow_code)
    with files.new_folder(Path(target)) as folder, restored_state(threads=source.case.threads):
        _fill(folder, source, scratch, tell)
    return Path(target)


def _fill(folder: Path, source: Source, scratch: Path | None, tell: Told) -> None:
    index: dict[str, Any] = {}
    tell("building")
    untouched, model = source.case.build_model(), source.case.build_model()

    def keep(changed: nn.Module) -> None:
        tell("weights")
        index.update(write_weights(changed, untouched, folder / files.WEIGHTS))
        tell("applying the recipe")

    tell("applying the recipe")
    applied = optimize(model, source.recipe, situation_in(source, scratch), keep)
    tell("packages")
    packages = _write_packages(folder, applied.model)
    tell("writing")
    files.write_json(folder / files.INDEX, index)
    # A recipe without its measurement decides here, once; whoever loads the folder must decide the same.
    decided = {"decisions": to_json(applied.decisions)} if applied.decisions else {}
    files.write_json(folder / files.RECIPE, {**source.data, **decided})
    (folder / files.SCRIPT).write_text(SCRIPT_TEXT, encoding="utf-8")
    (folder / files.CARD).write_text(card_of(source.data, applied.changes, index, packages), encoding="utf-8")
    files.write_manifest(folder)


def _offered_by(module: nn.Module) -> dict[str, bytes | str | Path]:
    """What a module offers to take along; a compiled library may also be named by `package_path`."""
    offers, path = getattr(module, "export_files", None), getattr(module, "package_path", None)
    library: dict[str, bytes | str | Path] = {LIBRARY: path} if isinstance(path, str | Path) else {}
    return library | (dict(offers()) if callable(offers) else {})


def _write_packages(folder: Path, model: nn.Module) -> list[str]:
    """Write what the modules offer; returns the names inside the folder."""
    names: list[str] = []
    for module in model.modules():
        for name, content in _offered_by(module).items():
            if not _PACKAGE_NAME.fullmatch(name) or name in names:
                raise InvalidInput(f"{type(module).__name__} offers the file {name!r:.80} twice or under no plain name")
            (folder / files.PACKAGE_FOLDER).mkdir(exist_ok=True)
            path = folder / files.PACKAGE_FOLDER / name
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)
            names.append(name)
    return [f"{files.PACKAGE_FOLDER}/{name}" for name in names]
