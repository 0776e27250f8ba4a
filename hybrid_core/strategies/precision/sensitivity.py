"""How much each layer suffers in each number format, measured once: the table that mixed precision is solved from.

One unit (a layer, or neighbours where a model has too many for the time) is stored in one format while all others stay
float32, and the outputs are compared on a few inputs. The table also holds what the choice would cost: bytes by
arithmetic and the time of the layer alone on the inputs it really gets. It is kept in the folder that the trials of one
run share, under a fingerprint of weights, workload, device and versions, so another bound needs no new measurement.
Sources: HAWQ, Dong et al. 2019 (arXiv 1905.03696) for sensitivity per layer; Nahshan et al. 2019 (arXiv 1911.07190).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.strategies.base import Situation, replace_submodule, tensors_in
from hybrid_core.strategies.precision.formats import FLOAT32, Format, formats_for
from hybrid_core.strategies.precision.linear_layers import float_linears, running_order, tied_linears

INPUTS = 2
MOST_SECONDS = 40.0
TIMED_CALLS = 7
MOST_SHAPES = 2

Inputs = tuple[Any, ...]
# How often each shape of inputs reached a layer in one call of the model.
Shapes = Counter[tuple[int, ...]]


@dataclass(frozen=True)
class Choice:
    """A format for a unit: mean squared relative error of the outputs, bytes of its weights, milliseconds per call."""

    format: str
    damage: float
    weight_bytes: int
    milliseconds: float


@dataclass(frozen=True)
class Unit:
    """Layers that get the same format; the first choice is float32, with no damage."""

    layers: tuple[str, ...]
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class SensitivityTable:
    """All units in running order, with the model calls it took to find out."""

    fingerprint: str
    model_calls: int
    units: tuple[Unit, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SensitivityTable:
        """Read what `to_json` gave."""
        units = [Unit(tuple(u["layers"]), tuple(Choice(**c) for c in u["choices"])) for u in data["units"]]
        return cls(str(data["fingerprint"]), int(data["model_calls"]), tuple(units))


def measure_sensitivity(model: nn.Module, situation: Situation, formats: dict[str, Format]) -> SensitivityTable:
    """Try every format on every unit; the model is as before afterwards. A format that fails on a unit is left out."""
    inputs = inputs_like_the_example(situation, INPUTS)
    started = time.perf_counter()
    expected = answers(model, situation, inputs)
    seconds = time.perf_counter() - started
    shapes = _shapes_of_inputs(model, situation)
    units = _units(model, situation, seconds * len(formats))
    calls, found = len(inputs) + 2, []
    for names in units:
        layers = [model.get_submodule(name) for name in names]
        choices = [_cost(FLOAT32, 0.0, layers, layers, shapes, names, lambda rows, columns: 4 * rows * columns)]
        for chosen in formats.values():
            if not all(isinstance(layer, nn.Linear) and chosen.fits(layer) for layer in layers):
                continue
            stored = [chosen.make(layer) for layer in layers if isinstance(layer, nn.Linear)]
            with stored_as(model, dict(zip(names, stored, strict=True))):
                damage = _damage(model, situation, inputs, expected)
            calls += len(inputs)
            if math.isfinite(damage):
                choices.append(_cost(chosen.name, damage, stored, layers, shapes, names, chosen.weight_bytes))
        found.append(Unit(tuple(names), tuple(choices)))
    return SensitivityTable(fingerprint(model, situation, formats), calls, tuple(found))


def sensitivity_of(model: nn.Module, situation: Situation) -> SensitivityTable:
    """The stored table of this model and situation, or a new one, which is stored where there is a folder for it."""
    formats = formats_for(situation.device)
    name = fingerprint(model, situation, formats)
    path = None if situation.scratch is None else Path(situation.scratch) / f"sensitivity-{name}.json"
    stored = _read(path) if path is not None else None
    if stored is not None and stored.fingerprint == name:
        return stored
    table = measure_sensitivity(model, situation, formats)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(table.to_json()))
        part.replace(path)
    return table


def inputs_like_the_example(situation: Situation, count: int) -> list[Inputs]:
    """The example and, where the situation can draw more of its kind, fresh ones up to `count`."""
    draw = situation.fresh_inputs
    return [situation.example_inputs, *([draw(turn) for turn in range(1, count)] if draw is not None else [])]


def answers(model: nn.Module, situation: Situation, inputs: Sequence[Inputs]) -> list[list[Tensor]]:
    """The floating outputs of the model for each of the inputs."""
    with torch.no_grad():
        made = [tensors_in(situation.call(model, one)) for one in inputs]
    return [[t.detach().double().clone() for t in tensors if t.is_floating_point()] for tensors in made]


def squared_error(expected: list[list[Tensor]], found: list[list[Tensor]]) -> float:
    """Mean over inputs and outputs of the squared relative error; infinite when something is not finite."""
    errors = [
        float(((a - b).norm() / (a.norm() + 1e-30)) ** 2)
        for one, other in zip(expected, found, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    mean = sum(errors) / max(len(errors), 1)
    return mean if math.isfinite(mean) else math.inf


@contextmanager
def stored_as(model: nn.Module, layers: dict[str, nn.Module]) -> Iterator[None]:
    """Put other layers in the named places for as long as the block runs."""
    before = {name: model.get_submodule(name) for name in layers}
    try:
        for name, layer in layers.items():
            replace_submodule(model, name, layer)
        yield
    finally:
        for name, layer in before.items():
            replace_submodule(model, name, layer)


def fingerprint(model: nn.Module, situation: Situation, formats: dict[str, Format]) -> str:
    """What a table depends on: every weight, the shapes of the inputs, workload, device, versions and formats."""
    digest = hashlib.blake2b(digest_size=16)
    shapes = [tuple(t.shape) for t in tensors_in(situation.example_inputs)]
    facts = (situation.workload, shapes, str(situation.device), sorted(formats), INPUTS)
    machine = (torch.__version__, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    digest.update(repr((facts, machine)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            plain = tensor.detach().cpu().contiguous().flatten()
            digest.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


def _units(model: nn.Module, situation: Situation, seconds_each: float) -> list[list[str]]:
    """Each layer that runs by itself, or as many neighbours together as the time asks for."""
    tied, plain = set(tied_linears(model)), float_linears(model)
    names = [name for name in running_order(model, situation) if name not in tied and name in plain]
    affordable = max(int(MOST_SECONDS / max(seconds_each, 1e-9)), 1)
    size = math.ceil(len(names) / affordable) if names else 1
    return [names[i : i + size] for i in range(0, len(names), size)]


def _damage(model: nn.Module, situation: Situation, inputs: Sequence[Inputs], expected: list[list[Tensor]]) -> float:
    try:
        return squared_error(expected, answers(model, situation, inputs))
    except Exception:  # whatever the model's own code raises when it reads a layer of another type
        return math.inf


def _cost(
    name: str,
    damage: float,
    stored: Sequence[nn.Module],
    layers: Sequence[nn.Module],
    shapes: dict[str, Shapes],
    names: Sequence[str],
    weight_bytes: Any,
) -> Choice:
    sizes = [(layer.out_features, layer.in_features) for layer in layers if isinstance(layer, nn.Linear)]
    held = sum(int(weight_bytes(rows, columns)) for rows, columns in sizes)
    device = next(layer.weight.device for layer in layers if isinstance(layer, nn.Linear))
    spent = sum(_time(layer, shapes[n], device) for n, layer in zip(names, stored, strict=True))
    return Choice(name, damage, held, spent)


def _time(layer: nn.Module, shapes: Shapes, device: torch.device) -> float:
    """Milliseconds of this layer within one call of the model, from its most frequent shapes of inputs."""
    common = shapes.most_common(MOST_SHAPES)
    counted = sum(count for _, count in common)
    spent = sum(count * _median_ms(layer, torch.zeros(shape, device=device)) for shape, count in common)
    return spent * sum(shapes.values()) / max(counted, 1)


def _median_ms(layer: nn.Module, inputs: Tensor) -> float:
    taken = []
    with torch.no_grad():
        layer(inputs)
        for _ in range(TIMED_CALLS):
            started = time.perf_counter()
            layer(inputs)
            if inputs.device.type == "cuda":
                torch.cuda.synchronize(inputs.device)
            taken.append((time.perf_counter() - started) * 1e3)
    return sorted(taken)[len(taken) // 2]


def _shapes_of_inputs(model: nn.Module, situation: Situation) -> dict[str, Shapes]:
    shapes: dict[str, Shapes] = {name: Counter() for name in float_linears(model)}

    def note(name: str, inputs: Any) -> None:
        if inputs:
            shapes[name][tuple(inputs[0].shape)] += 1

    hooks = [
        layer.register_forward_pre_hook(lambda _layer, inputs, name=name: note(name, inputs))
        for name, layer in float_linears(model).items()
    ]
    try:
        with torch.no_grad():
            situation.call(model, situation.example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _read(path: Path) -> SensitivityTable | None:
    """A table that cannot be read is measured again; nothing in the folder may be trusted to be whole."""
    try:
        return SensitivityTable.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
