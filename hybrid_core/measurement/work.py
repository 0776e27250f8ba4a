"""The work of one call of the untouched model: its products and convolutions, and the bytes they must read.

Counted while the call runs, by PyTorch's own formulas (`torch.utils.flop_counter`) and one for the CPU's fused
attention, which they lack. Work counts as needed only where it depends on the inputs and an answer depends on it, so
dead code and what could be computed once for all calls are left out. Everything unknown (sums, norms, custom kernels,
packed quantized weights, what passes through Python numbers) counts as nothing, which only makes a bound looser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from hybrid_core.measurement.case import Case
from hybrid_core.measurement.nested import tensor_leaves

# PyTorch's own kernels in which products hide that no formula counts; operators of other namespaces are named as well.
HEAVY_WITHOUT_FORMULA = ("mkldnn_rnn_layer", "_thnn_fused", "_cudnn_rnn", "_fft", "_linalg_", "mkldnn_linear")
MOST_NAMES = 8


@dataclass(frozen=True)
class Work:
    """Of one call: all counted `flops`, those that are needed, values of weights they read, bytes of the answer.

    `uncounted` names operators that may hide products; where there is a `problem`, nothing could be counted.
    """

    flops: int
    needed_flops: int
    weight_values: int
    answer_bytes: int
    uncounted: tuple[str, ...] = ()
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "flops": self.flops,
            "needed_flops": self.needed_flops,
            "weight_values": self.weight_values,
            "answer_bytes": self.answer_bytes,
            "uncounted": list(self.uncounted),
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Work:
        """What `to_json` gave; raises ValueError, KeyError or TypeError where it is no such thing."""
        names = ("flops", "needed_flops", "weight_values", "answer_bytes")
        counts = [int(data[name]) for name in names]
        if min(counts) < 0:
            raise ValueError(f"counts of work {counts} cannot be negative")
        flops, needed, weights, answer = counts
        uncounted = tuple(str(name) for name in data["uncounted"])
        return cls(flops, needed, weights, answer, uncounted, str(data["problem"]))


def count_work(case: Case, model: nn.Module, inputs: Any) -> Work:
    """Count one call; a model whose call cannot be watched gets a `problem` and no figures."""
    try:
        with torch.inference_mode(), _Watch(tensor_leaves(inputs)) as watch:
            answer = case.call(model, inputs)
    except Exception as error:  # code of all kinds runs under the watch, and a count is never worth a trial
        return Work(0, 0, 0, 0, problem=f"the call cannot be watched ({type(error).__name__}: {str(error)[:200]})")
    counted: Work = watch.work(tensor_leaves(answer))
    return counted


@dataclass
class _Operation:
    """One operator that ran: what it counts, what it came from."""

    sources: tuple[int, ...]
    from_inputs: bool
    flops: int = 0
    weights: dict[int, int] = field(default_factory=dict)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator; `writer` remembers by address which one last wrote a storage of this call."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Telling the compiler to leave this class alone would import it, which takes a second.
        return False

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inputs = {_address(tensor) for tensor in inputs}
        self._operations: list[_Operation] = []
        self._writer: dict[int, int] = {}
        self._uncounted: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            self._uncounted[str(func)] = None
            return func(*args, **kwargs)
        formula = _formula(func)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)  # NotImplemented where it is no combination of others
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        self._note(func, formula, args, kwargs, result)
        return result

    def work(self, answers: list[Tensor]) -> Work:
        """What was counted, once the call is over."""
        needed = self._needed({_address(tensor) for tensor in answers})
        weights: dict[int, int] = {}
        for operation in needed:
            for address, values in operation.weights.items():
                weights[address] = max(weights.get(address, 0), values)
        made = {_address(t): t for t in answers if _address(t) in self._writer}
        return Work(
            flops=sum(operation.flops for operation in self._operations),
            needed_flops=sum(operation.flops for operation in needed),
            weight_values=sum(weights.values()),
            answer_bytes=sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in made.values()),
            uncounted=tuple(self._uncounted)[:MOST_NAMES],
        )

    def _note(self, func: Any, formula: Callable[..., int] | None, args: Any, kwargs: Any, result: Any) -> None:
        read = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        addresses = {_address(tensor) for tensor in read}
        sources = tuple({self._writer[a] for a in addresses if a in self._writer})
        from_inputs = bool(addresses & self._inputs) or any(self._operations[s].from_inputs for s in sources)
        operation = _Operation(sources, from_inputs)
        if formula is not None:
            operation.flops = int(formula(*args, **kwargs, out_val=result))
            outside = [t for t in read if _address(t) not in self._writer and _address(t) not in self._inputs]
            operation.weights = {_address(tensor): tensor.numel() for tensor in outside}
        elif _may_hide_products(func):
            self._uncounted[str(func._overloadpacket)] = None
        written = {_address(t) for t in pytree.tree_leaves(result) if isinstance(t, Tensor)}
        if func._schema.is_mutable:
            written = written or addresses
        else:
            written -= addresses  # a view writes nothing
        if written or operation.flops:
            self._operations.append(operation)
            self._writer.update(dict.fromkeys(written, len(self._operations) - 1))

    def _needed(self, answers: set[int]) -> list[_Operation]:
        """Operations that stand between the inputs and an answer."""
        reached: set[int] = set()
        waiting = [self._writer[address] for address in answers if address in self._writer]
        while waiting:
            index = waiting.pop()
            if index not in reached:
                reached.add(index)
                waiting.extend(self._operations[index].sources)
        return [self._operations[index] for index in reached if self._operations[index].from_inputs]


def _formula(func: Any) -> Callable[..., int] | None:
    packet = func._overloadpacket
    if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        return _cpu_attention_flops
    formula: Callable[..., int] | None = flop_registry.get(packet)
    return formula


def _cpu_attention_flops(query: Tensor, key: Tensor, value: Tensor, *others: Any, **named: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _may_hide_products(func: Any) -> bool:
    """A kernel of somebody else's, or one of PyTorch's that is known to multiply."""
    if func.namespace not in ("aten", "prim", "prims"):
        return True
    return any(name in func._schema.name for name in HEAVY_WITHOUT_FORMULA)


def _address(tensor: Tensor) -> int:
    """Of the memory behind a tensor; of the object where there is none to see (sparse, packed, subclasses)."""
    if tensor.layout is torch.strided and type(tensor) in (Tensor, nn.Parameter):
        return tensor.untyped_storage().data_ptr() or id(tensor)
    return id(tensor)
