"""Which tensor of a file fills which parameter of the model: names must cover the model exactly.

`transformers` 5 stores some models under the names of earlier versions (Vision Transformers, the head of GPT-NeoX) and
one tensor per expert where the module holds all experts in one; the rules here undo that. Tied weights are stored once.
A name that fits nothing and a parameter that nothing fills are refused, except buffers that old versions stored and
every module computes for itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.safetensors_header import TensorFact
from hybrid_core.models.brought.shards import Shards

FLOATING = ("F32", "F16", "BF16")
_COMPUTED = re.compile(
    r"(^|\.)(position_ids|token_type_ids|rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias|attention\.bias|attention\.masked_bias)$"
)
_OLD_NAMES = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
    (re.compile(r"^embed_out\."), "lm_head."),
)
_VISION_NAMES = (
    (re.compile(r"(^|\.)encoder\.layer\.(\d+)\."), r"\1layers.\2."),
    (re.compile(r"\.attention\.attention\.(query|key|value)\."), lambda match: f".attention.{match[1][0]}_proj."),
    (re.compile(r"\.attention\.output\.dense\."), ".attention.o_proj."),
    (re.compile(r"(layers\.\d+)\.intermediate\.dense\."), r"\1.mlp.fc1."),
    (re.compile(r"(layers\.\d+)\.output\.dense\."), r"\1.mlp.fc2."),
)
_EXPERT = re.compile(r"^(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight$")


@dataclass(frozen=True)
class Place:
    """A parameter, or the rows `start` to `end` of one expert in it."""

    name: str
    expert: int | None = None
    start: int = 0
    end: int = 0

    def of(self, parameter: Tensor) -> Tensor:
        """The part of the parameter that is filled."""
        return parameter if self.expert is None else parameter[self.expert, self.start : self.end]


def places_of(model: nn.Module, shards: Shards) -> dict[str, Place]:
    """File name to place for every tensor that is read; the model may be on the meta device.

    Raises:
        InvalidInput: a tensor is missing, unexpected, given twice, of another shape or of another kind of number.
    """
    state = model.state_dict(keep_vars=True)
    places: dict[str, Place] = {}
    filled: dict[Place, str] = {}
    for name in shards.holder:
        place = _place_of(name, state)
        if place is None:
            if _COMPUTED.search(name):
                continue
            raise InvalidInput(
                f"{shards.holder[name].name} holds {name!r:.120}, which {type(model).__name__} does not have; check "
                "that architectures in config.json fits the weights"
            )
        if place in filled:
            raise InvalidInput(f"tensors {filled[place]!r:.120} and {name!r:.120} fill the same weight; remove one")
        _check_fit(name, shards.fact(name), place.of(state[place.name]))
        places[name], filled[place] = place, name
    _check_complete(state, filled, type(model).__name__)
    return places


def _place_of(name: str, state: Mapping[str, Tensor]) -> Place | None:
    old = _renamed(name, _OLD_NAMES)
    for candidate in (name, old, _renamed(old, _VISION_NAMES)):
        if candidate in state:
            return Place(candidate)
    match = _EXPERT.match(name)
    return None if match is None else _expert_place(match[1], int(match[2]), match[3], state)


def _renamed(name: str, rules: Iterable[tuple[re.Pattern[str], Any]]) -> str:
    for pattern, replacement in rules:
        name = pattern.sub(replacement, name)
    return name


def _expert_place(prefix: str, expert: int, part: str, state: Mapping[str, Tensor]) -> Place | None:
    """Gate and up projections of an expert lie one above the other in one matrix."""
    joined = f"{prefix}.{'down_proj' if part == 'down' else 'gate_up_proj'}"
    if joined not in state or expert >= state[joined].shape[0]:
        return None
    rows = state[joined].shape[1]
    half = rows // 2
    start, end = {"gate": (0, half), "up": (half, rows), "down": (0, rows)}[part]
    return Place(joined, expert, start, end)


def _check_fit(name: str, fact: TensorFact, target: Tensor) -> None:
    if fact.shape != tuple(target.shape):
        raise InvalidInput(
            f"tensor {name!r:.120} has shape {list(fact.shape)} where config.json needs {list(target.shape)}; they do "
            "not belong together"
        )
    allowed = FLOATING if target.is_floating_point() else ("I64",)
    if fact.dtype not in allowed:
        raise InvalidInput(f"tensor {name!r:.120} has dtype {fact.dtype}; allowed here are {', '.join(allowed)}")


def _check_complete(state: Mapping[str, Tensor], filled: Mapping[Place, str], model: str) -> None:
    """Every parameter is filled by its own name, by one it is tied to, or by all of its experts."""
    done = {id(state[place.name]) for place in filled if place.expert is None}
    numbers: dict[str, int] = {}
    for place in filled:
        if place.expert is not None:
            numbers[place.name] = numbers.get(place.name, 0) + place.of(state[place.name]).numel()
    for name, value in state.items():
        if id(value) not in done and numbers.get(name) != value.numel():
            raise InvalidInput(f"no file holds {name!r:.120}, which {model} needs; bring the whole folder")
