"""A folder as `save_pretrained` writes it: checked, described and loaded without a line of its code being run.

The configuration is rebuilt from the allow-listed keys, the class comes from our table, and the weights are copied by
name into a module built from that configuration. `from_pretrained` is not used: it reads further files of the folder
and may follow what they say. The untouched model has eager attention and float32 weights.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hybrid_core.errors import InvalidInput
from hybrid_core.models.base import freeze
from hybrid_core.models.brought import workload_sizes
from hybrid_core.models.brought.family import CAUSAL, IMAGE
from hybrid_core.models.brought.folder import check_folder, checked_path
from hybrid_core.models.brought.folder_config import FolderConfig, config_bytes, read_config
from hybrid_core.models.brought.foreign_modules import ForeignDecoder, ForeignEncoder, ForeignVision
from hybrid_core.models.brought.registration import refuse_change
from hybrid_core.models.brought.shards import Shards, digest, read_shards
from hybrid_core.models.brought.sizing import count_parameters, describe_failure
from hybrid_core.models.brought.transformers_library import load_transformers
from hybrid_core.models.brought.weight_names import Place, places_of
from hybrid_core.models.brought.written_out_attention import add_submodules, register_attention
from hybrid_core.models.capacity import refuse_what_does_not_fit
from hybrid_core.models.parts.decoder import decode
from hybrid_core.records import Workload


class HuggingFaceFolder:
    """One folder, checked; nothing is loaded before `build`."""

    def __init__(self, path: str) -> None:
        self.folder: Path = checked_path(path, "folder")
        self.path = str(self.folder)
        check_folder(self.folder)
        raw = config_bytes(self.folder)
        self.config: FolderConfig = read_config(raw)
        self.shards: Shards = read_shards(self.folder)
        self.sha256, self.digest_of = digest(raw, self.shards)
        self._fits = False

    def describe(self) -> dict[str, Any]:
        """What the page shows and what later calls need, found on the meta device."""
        refuse_what_does_not_fit(f"the weights in {self.folder.name!r:.80}", self.shards.elements)
        model = self.skeleton()
        plan = workload_sizes.plan(model, self.config)
        return {
            "title": f"{self.config.architecture} from {self.folder.name:.60}",
            "family": self.config.model_type,
            "description": f"{self.config.architecture} of transformers, built from the known keys of config.json.",
            "architecture": f"{self.config.architecture} with eager attention and float32 weights.",
            "parameters": count_parameters(model),
            "digest_of": self.digest_of,
            **plan,
        }

    def build(self) -> nn.Module:
        """The model with its weights, on the CPU."""
        refuse_what_does_not_fit(f"the weights in {self.folder.name!r:.80}", self.shards.elements)
        if not self._fits:
            self.skeleton()
        with torch.random.fork_rng(devices=()), _WithoutInitialising():
            model = self._make()
        _fill(model, self.shards, places_of(model, self.shards))
        refuse_change(self.path, digest(config_bytes(self.folder), self.shards)[0], self.sha256)
        return freeze(self._wrap(model))

    def skeleton(self) -> nn.Module:
        """The same modules on the meta device; also proves that names and shapes of the weights fit."""
        with torch.device("meta"):
            model = self._make()
        places_of(model, self.shards)
        self._fits = True  # what config.json asks for is no larger than the files, so it may be allocated
        return freeze(self._wrap(model))

    def make_inputs(self, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random tokens or smooth random images."""
        return workload_sizes.make_inputs(self.config, workload, generator)

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor:
        """One forward pass; a decode reads its new tokens one by one."""
        if workload.kind == "decode":
            return decode(model, *inputs)
        answer: Tensor = model(*inputs)
        return answer

    @functools.cached_property
    def _classes(self) -> tuple[Any, Any, Any]:
        library = load_transformers()
        return library, getattr(library, self.config.family.config_class), getattr(library, self.config.architecture)

    def _make(self) -> nn.Module:
        library, config_class, model_class = self._classes
        labels = {} if self.config.labels is None else {"num_labels": self.config.labels}
        try:
            config = config_class(**self.config.values, **labels, attn_implementation=register_attention(library))
            config._experts_implementation = "eager"
            model: nn.Module = model_class(config)
            add_submodules(model)
        except InvalidInput:
            raise
        except Exception as error:  # another library's constructor may raise anything
            raise describe_failure(
                error, "config.json does not describe a model that transformers can build", "check its numbers"
            ) from None
        return model

    def _wrap(self, model: nn.Module) -> nn.Module:
        if self.config.gives == CAUSAL:
            layers: Any = model.config
            return ForeignDecoder(model, int(layers.num_hidden_layers))
        form = ForeignVision if self.config.family.reads == IMAGE else ForeignEncoder
        return form(model, self.config.gives)


class _WithoutInitialising(TorchFunctionMode):
    """Skips `torch.nn.init`: every weight is overwritten from the files, so drawing random ones would be waste."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@torch.no_grad()
def _fill(model: nn.Module, shards: Shards, places: dict[str, Place]) -> None:
    """Copy the tensors one after the other, each widened to the dtype of its parameter."""
    state = model.state_dict(keep_vars=True)
    for path in shards.files:
        with safe_open(str(path), framework="pt") as file:
            for name, place in places.items():
                if shards.holder[name] == path:
                    place.of(state[place.name]).copy_(file.get_tensor(name))
