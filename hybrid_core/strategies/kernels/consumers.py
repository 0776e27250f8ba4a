"""Who reads the result of a layer? Watched during the example run, operation by operation.

Folding one layer into the next is right only when nothing else sees what passes between them. A dispatch mode sees
every operation that touches the result, hooks say which layer it happened in, and the tensor handed on must be the very
same object; one reader that is not a layer of the wanted kind, even a view, and the pair is left alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hybrid_core.strategies.base import Situation, run_example, tensors_in


@dataclass
class Readers:
    """`of[producer]` are the layers that read its results, `shared` the producers that something else reads too."""

    of: dict[nn.Module, set[nn.Module]] = field(default_factory=lambda: defaultdict(set))
    shared: set[nn.Module] = field(default_factory=set)
    calls: Counter[nn.Module] = field(default_factory=Counter)
    calls_from: Counter[tuple[nn.Module, nn.Module]] = field(default_factory=Counter)
    example_output: dict[nn.Module, Tensor] = field(default_factory=dict)

    def only(self, producer: nn.Module) -> list[nn.Module]:
        """The readers, when they are all layers that read nothing but this producer; else an empty list."""
        readers = list(self.of.get(producer, ()))
        own = all(self.calls[r] == self.calls_from[producer, r] for r in readers)
        return readers if own and producer not in self.shared else []


def watch_readers(
    model: nn.Module, situation: Situation, producers: set[nn.Module], readers: set[nn.Module]
) -> Readers:
    """Run the example once and report which of `readers` read the results of each of `producers`."""
    watch = _Watch(producers, readers)
    try:
        with watch:
            result = run_example(model, situation)
    finally:
        for handle in watch.handles:
            handle.remove()
    for tensor in tensors_in(result):
        watch.note_foreign(tensor)
    return watch.found


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, producers: set[nn.Module], readers: set[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = Readers()
        self.made_by: dict[int, nn.Module] = {}
        self.alive: list[Tensor] = []  # so that no storage address is used twice
        self.inside: list[nn.Module] = []
        self.handles: list[Any] = []
        for module in producers | readers:
            self.handles.append(module.register_forward_pre_hook(self._enter))
            self.handles.append(module.register_forward_hook(self._leave, always_call=True))
        self.producers, self.readers = producers, readers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor):
                self.note_foreign(leaf)
        return func(*args, **(kwargs or {}))

    def note_foreign(self, tensor: Tensor) -> None:
        """Something reads this tensor; unless it is a layer reading its own input, its producer is shared."""
        producer = self.made_by.get(tensor.untyped_storage()._cdata)
        reader = self.inside[-1] if self.inside else None
        if producer is not None and reader not in self.found.of[producer]:
            self.found.shared.add(producer)

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.inside.append(module)
        self.found.calls[module] += 1
        if module not in self.readers or len(args) != 1 or not isinstance(args[0], Tensor):
            return
        producer = self.made_by.get(args[0].untyped_storage()._cdata)
        if producer is not None and any(args[0] is tensor for tensor in self.alive):
            self.found.of[producer].add(module)
            self.found.calls_from[producer, module] += 1

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.inside.pop()
        if module in self.producers and isinstance(output, Tensor):
            self.alive.append(output)
            self.made_by[output.untyped_storage()._cdata] = module
            self.found.example_output[module] = output


def parameter_owners(model: nn.Module) -> Counter[int]:
    """How many modules hold each parameter, by its identity; a tied weight has more than one."""
    return Counter(id(p) for m in model.modules() for p in m._parameters.values() if isinstance(p, torch.nn.Parameter))
