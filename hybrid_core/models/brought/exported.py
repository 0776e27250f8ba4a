"""A program that `torch.export.save` wrote: checked as data, rebuilt from it, never loaded by PyTorch's own loader.

Inputs follow from the program's signature: constant sizes as they are, dynamic ones as they were in the export. Whole
numbers are drawn below the size of the embedding they index; where they index none, a labelled file must show their
range.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.base import freeze
from hybrid_core.models.brought.exported_archive import (
    CONSTANTS,
    CONSTANTS_CONFIG,
    MAX_JSON_BYTES,
    PROGRAM,
    WEIGHTS,
    WEIGHTS_CONFIG,
    open_archive,
)
from hybrid_core.models.brought.exported_graph import build_module
from hybrid_core.models.brought.exported_signature import input_specs, read_signature
from hybrid_core.models.brought.exported_tensors import TensorPlace, read_places, tensor_reader
from hybrid_core.models.brought.folder import checked_path
from hybrid_core.models.brought.input_specs import InputSpec, with_ranges
from hybrid_core.models.brought.registration import refuse_change
from hybrid_core.models.brought.shards import WHOLE_DIGEST_BYTES, file_digest
from hybrid_core.models.brought.sizing import count_parameters
from hybrid_core.models.brought.strict_json import read_object
from hybrid_core.models.capacity import refuse_what_does_not_fit
from hybrid_core.records import Workload, to_json


class ExportedFile:
    """One `.pt2` file, checked; its weights are read by `build`."""

    def __init__(self, path: str, details: Mapping[str, Any]) -> None:
        self.file: Path = checked_path(path, "file")
        self.path = str(self.file)
        self.archive = open_archive(self.file)
        program = read_object(self.archive.read(PROGRAM, MAX_JSON_BYTES), PROGRAM)
        module = program.get("graph_module")
        self.graph: dict[str, Any] = module.get("graph", {}) if isinstance(module, dict) else {}
        self.signature = read_signature(module)
        self.places = self._read_places()
        self.inputs = with_ranges(input_specs(self.graph, self.signature), details.get("inputs", ()))
        if self.file.stat().st_size > WHOLE_DIGEST_BYTES:
            raise InvalidInput(f"{self.file.name!r:.120} is larger than 8 GiB; bring a smaller program")
        self.sha256 = file_digest(self.file)

    def describe(self) -> dict[str, Any]:
        """What the page shows; the weights are loaded to count them."""
        first = self.inputs[0].shape
        workload = Workload("forward", "forward", batch=first[0] if first else 1)
        limits = [
            "a program of single operations: only its linear layers are layers again, so some strategies find nothing",
            "its inputs here are random, with the sizes of the export; the example inputs in the file are not read",
        ]
        if any(spec.dtype == "bool" for spec in self.inputs):
            limits.append("inputs of truth values are all true")
        return {
            "title": f"Exported program {self.file.name:.60}",
            "family": "exported",
            "description": f"{self.file.name:.60}, written by torch.export.save.",
            "architecture": "The operations that torch.export recorded, rebuilt one by one; linear ones as layers.",
            "parameters": count_parameters(self.build()),
            "digest_of": "every byte of the file",
            "workloads": to_json([workload]),
            "limits": limits,
            "card": {"inputs": [f"{spec.dtype} {list(spec.shape)}" for spec in self.inputs]},
            "inputs": [spec.to_json() for spec in self.inputs],
            "classes": None,
        }

    def build(self) -> nn.Module:
        """The rebuilt module with its weights."""
        refuse_what_does_not_fit(f"{self.file.name!r:.80}", sum(place.elements for place in self.places.values()))
        read = tensor_reader(self.archive)
        tensors: dict[str, Tensor] = {}
        for name, place in self.places.items():
            tensor = read(place)
            tensors[name] = nn.Parameter(tensor, requires_grad=False) if place.is_parameter else tensor
        refuse_change(self.path, file_digest(self.file), self.sha256)
        return freeze(build_module(self.graph, self.signature, tensors))

    def skeleton(self) -> nn.Module:
        """The module with its tensors moved to the meta device."""
        return self.build().to("meta")

    def make_inputs(self, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random inputs with the sizes of the export."""
        del workload
        for place, spec in enumerate(self.inputs):
            if spec.needs_range:
                raise InvalidInput(
                    f"input {place} of {self.file.name!r:.80} takes whole numbers that index no embedding, so their "
                    "range is unknown; give a labelled safetensors file whose inputs show it"
                )
        return tuple(spec.draw(generator) for spec in self.inputs)

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """One forward pass."""
        del workload
        answer: Tensor | tuple[Tensor, ...] = model(*inputs)
        return answer

    def show_range(self, example: InputSpec) -> None:
        """Take the range of whole numbers from a labelled file, where the program does not tell it."""
        first = self.inputs[0]
        if len(self.inputs) == 1 and first.needs_range and example.low is not None:
            self.inputs = (InputSpec(first.dtype, first.shape, example.low, example.high),)

    def _read_places(self) -> dict[str, TensorPlace]:
        weights = read_places(self.archive, WEIGHTS, WEIGHTS_CONFIG)
        constants = read_places(self.archive, CONSTANTS, CONSTANTS_CONFIG)
        both = set(weights) & set(constants)
        if both:
            raise InvalidInput(f"tensor {min(both)!r:.120} is a weight and a constant; export the program again")
        missing = set(self.signature.held.values()) - set(weights) - set(constants)
        if missing:
            raise InvalidInput(f"{self.file.name!r:.80} lacks the tensor {min(missing)!r:.120}; export it again")
        return {**weights, **constants}
