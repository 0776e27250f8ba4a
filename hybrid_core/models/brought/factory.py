"""A function of one's own that builds a module: for people at their own machine, and off unless they switched it on.

Importing a module runs it, so nothing is imported before the caller's list of packages allows the top one, and only in
the process that inspects or measures. The source file is found without importing its packages, and its SHA-256 is the
digest: what was looked at is what will run. What that file imports in turn is not covered, and the card says so.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.base import freeze
from hybrid_core.models.brought.input_specs import InputSpec, spec_like
from hybrid_core.models.brought.registration import refuse_change
from hybrid_core.models.brought.shards import file_digest
from hybrid_core.models.brought.sizing import count_parameters, describe_failure
from hybrid_core.records import Workload, to_json

_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
MAX_PATH_LENGTH = 500
INFERRED_ROWS, INFERRED_TOKENS = 32, 64


class FactoryFunction:
    """`package.module:function`, allowed and found, not yet imported."""

    def __init__(self, path: str, details: Mapping[str, Any]) -> None:
        match = _PATH.fullmatch(path) if isinstance(path, str) and len(path) <= MAX_PATH_LENGTH else None
        if match is None:
            raise InvalidInput(f"path={path!r:.120} is not allowed; write package.module:function")
        self.path, self.module_name, self.function_name = path, match[1], match[2]
        self.package = check_allowed(self.module_name, details.get("allowed_packages"))
        self.file = find_source(self.module_name)
        self.sha256 = file_digest(self.file)
        self.inputs = tuple(InputSpec.from_json(entry) for entry in details.get("inputs", ()))

    def describe(self) -> dict[str, Any]:
        """What the page shows; the function is called once."""
        model, examples = self._make()
        self.inputs = tuple(spec_like(example, f"example input {place}") for place, example in enumerate(examples))
        first = self.inputs[0].shape
        limits = [
            "its inputs here are random, with the shapes and ranges of the example",
            "the digest covers the file of the function, not what it imports",
        ]
        return {
            "title": f"{type(model).__name__} from {self.path:.80}",
            "family": "factory",
            "description": f"The module that {self.path:.80} returns.",
            "architecture": f"{type(model).__name__}, as the function builds it.",
            "parameters": count_parameters(model),
            "digest_of": f"every byte of {self.file.name}",
            "workloads": to_json([Workload("forward", "forward", batch=first[0] if first else 1)]),
            "limits": limits,
            "card": {"inputs": [f"{spec.dtype} {list(spec.shape)}" for spec in self.inputs], "file": str(self.file)},
            "inputs": [spec.to_json() for spec in self.inputs],
            "allowed_packages": [self.package],
            "classes": None,
        }

    def build(self) -> nn.Module:
        """A fresh module from the function; the global generator is seeded, as it may draw its weights."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return freeze(self._make()[0])

    def skeleton(self) -> nn.Module:
        """The module with its tensors moved to the meta device."""
        return self.build().to("meta")

    def make_inputs(self, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random inputs like the example."""
        del workload
        return tuple(spec.draw(generator) for spec in self.inputs)

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """One forward pass."""
        del workload
        answer: Tensor | tuple[Tensor, ...] = model(*inputs)
        return answer

    def _make(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        refuse_change(self.path, file_digest(self.file), self.sha256)
        try:
            made = getattr(importlib.import_module(self.module_name), self.function_name)()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # somebody's code, which may also try to leave the process
            raise describe_failure(error, f"{self.path} failed", "make it return a torch.nn.Module") from None
        model, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(model, nn.Module):
            raise InvalidInput(
                f"{self.path} returned a {type(model).__name__}; return a torch.nn.Module or (module, example_inputs)"
            )
        return model, infer_examples(model) if examples is None else _as_tensors(examples, self.path)


def check_allowed(module_name: str, allowed: Any) -> str:
    """The top package, if it may be imported.

    Raises:
        InvalidInput: code is switched off or this package is not listed.
    """
    package = module_name.partition(".")[0]
    if not isinstance(allowed, list | tuple) or not allowed:
        raise InvalidInput(
            "models from Python code are switched off; start the server with --allow-code and list the package"
        )
    if package not in allowed:
        raise InvalidInput(
            f"package {package!r:.80} is not on the list of allowed packages; add it where you keep the list"
        )
    return package


def find_source(module_name: str) -> Path:
    """The source file of a module, found by walking its packages without importing any of them."""
    places: list[str] | None = list(sys.path)
    spec = None
    for part in module_name.split("."):
        spec = PathFinder.find_spec(part, places) if places is not None else None
        if spec is None:
            raise InvalidInput(f"module {module_name!r:.120} is not found in this Python; install it or check the name")
        places = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise InvalidInput(f"module {module_name!r:.120} has no Python source file, so what it does cannot be shown")
    return Path(spec.origin)


def infer_examples(model: nn.Module) -> tuple[Tensor, ...]:
    """One input for a module whose first layer tells its shape: linear, layer normalisation or embedding."""
    first = next((m for m in model.modules() if not list(m.children()) and list(m.parameters(recurse=False))), None)
    generator = torch.Generator().manual_seed(0)
    if isinstance(first, nn.Linear):
        return (torch.randn(INFERRED_ROWS, first.in_features, generator=generator),)
    if isinstance(first, nn.LayerNorm):
        return (torch.randn(INFERRED_ROWS, *first.normalized_shape, generator=generator),)
    if isinstance(first, nn.Embedding):
        tokens = torch.randint(first.num_embeddings, (1, INFERRED_TOKENS), generator=generator)
        tokens[0, :2] = torch.tensor([0, first.num_embeddings - 1])  # the example shows the range
        return (tokens,)
    raise InvalidInput(
        f"{type(model).__name__} starts with {type(first).__name__}, which does not tell its input; return "
        "(module, example_inputs)"
    )


def _as_tensors(examples: Any, path: str) -> tuple[Tensor, ...]:
    given = (examples,) if isinstance(examples, Tensor) else examples
    if not isinstance(given, tuple | list) or not given or not all(isinstance(x, Tensor) and x.numel() for x in given):
        raise InvalidInput(f"{path} returned {type(examples).__name__} as example inputs; return a tuple of tensors")
    return tuple(example.detach().cpu() for example in given)
