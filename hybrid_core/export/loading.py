"""Reading a folder back into the optimized model, without running anything that lies in it.

The untouched model is built and the recipe applied by this package; then every tensor is compared with the index. Where
this machine's own numbers differ (another processor packs or rounds differently) the stored weights are put in place,
so that what is returned is what was exported.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.export.files import INDEX, RECIPE, WEIGHTS, check_folder, read_json_file
from hybrid_core.export.rebuilding import Source, optimize, situation_in, source_of
from hybrid_core.export.state import put_in_place
from hybrid_core.export.weights import TensorFacts, index_of, read_index, read_stored
from hybrid_core.measurement.process_state import restored_state
from hybrid_core.provenance import warn_of_differences


class StoredWeightsUsed(UserWarning):
    """The weights made on this machine came out differently, and the stored ones were put in place."""


@dataclass
class Folder:
    """A checked folder: its recipe with figures, and the index of the optimized model's tensors.

    `replaced` counts the tensors of the last model that was completed by `complete`.
    """

    path: Path
    data: dict[str, Any]
    index: dict[str, TensorFacts]
    digests: Mapping[str, str] = field(default_factory=dict)
    replaced: int = 0

    def complete(self, model: nn.Module) -> None:
        """Compare a model that was built again with the index, and put stored weights in place where they differ.

        Raises:
            InvalidInput: it is another model, or a tensor cannot be put in place.
        """
        found = index_of(model)
        self._refuse_another_model(found)
        differing = [name for name, facts in self.index.items() if not _same(found[name], facts)]
        self.replaced = len(differing)
        if not differing:
            return
        foreign = [name for name in differing if self.index[name].stored is None]
        if foreign:
            raise InvalidInput(
                f"{len(foreign)} tensors that the recipe did not change differ from the exported model's (first "
                f"{foreign[0]!r:.80}): the untouched model here is another one; use the same model and versions"
            )
        stored = read_stored(self.path / WEIGHTS, self.index)
        left = put_in_place(model, {name: stored[name] for name in differing})
        now = index_of(model)
        left = left or [name for name in differing if not _same(now[name], self.index[name])]
        if left:
            raise InvalidInput(
                f"{len(left)} tensors of the model built here differ from the exported ones and cannot be replaced "
                f"(first {left[0]!r:.80}); use the versions that recipe.json names"
            )

    def _refuse_another_model(self, found: Mapping[str, TensorFacts]) -> None:
        strange = sorted(set(found) ^ set(self.index))
        shaped = [n for n in found if n in self.index and found[n].shape != self.index[n].shape]
        typed = [n for n in found if n in self.index and found[n].dtype != self.index[n].dtype]
        if strange or shaped or typed:
            name = (strange or shaped or typed)[0]
            raise InvalidInput(
                "the model built here is put together differently from the exported one (first difference "
                f"{name!r:.80}); use the versions that recipe.json names"
            )


def read_folder(path: str | Path) -> Folder:
    """Check a folder's files and read its JSON.

    Raises:
        InvalidInput: the first thing that is wrong, in one sentence.
    """
    folder = Path(path).expanduser()
    digests = check_folder(folder)
    return Folder(folder, read_json_file(folder, RECIPE), read_index(read_json_file(folder, INDEX)), digests)


def load_folder(
    path: str | Path, model: nn.Module | None = None, example_inputs: Any = None, *, allow_code: bool = False
) -> nn.Module:
    """The optimized model of an exported folder, in eval mode; nothing in the folder is run.

    `model` and `example_inputs` are the untouched module and its inputs where the folder was made from a module of
    one's own; `allow_code` is needed where the model is a function of an installed package. Versions or a device that
    differ from those of the figures are warned of.

    Raises:
        InvalidInput: the folder, the model or the device is not what it must be.
        StrategyUnsupported: a step of the recipe cannot be applied on this machine.
    """
    folder = read_folder(path)
    source = source_of(folder.data, model, example_inputs, allow_code=allow_code)
    warn_of_differences(folder.data, source.case.device)
    optimized = rebuild(folder, source)
    if folder.replaced:
        warnings.warn(replaced_sentence(folder), StoredWeightsUsed, stacklevel=2)
    return optimized


def rebuild(folder: Folder, source: Source) -> nn.Module:
    """The optimized model, built from scratch and compared with the folder."""
    with restored_state(threads=0):
        built = source.case.build_model()
        return optimize(built, source.recipe, situation_in(source), folder.complete).model


def replaced_sentence(folder: Folder) -> str:
    """What was replaced, for a person."""
    return (
        f"{folder.replaced} of {len(folder.index)} tensors came out differently on this machine; the stored ones were "
        "put in place"
    )


def _same(found: TensorFacts, stored: TensorFacts) -> bool:
    return (found.dtype, found.shape, found.sha256) == (stored.dtype, stored.shape, stored.sha256)
