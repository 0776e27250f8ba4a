"""`cudagraphs`: the kernels of one call are recorded once on the GPU and replayed without Python launching each.

A recording works on fixed memory: inputs are copied into its own buffers before a replay, and answers are copied out of
them afterwards, since the next replay overwrites what it wrote. A call of another form or other sizes gets a recording
of its own, up to a limit that is an error; nothing runs unrecorded. A model that reads values back from the GPU cannot
be recorded, which CUDA itself refuses, and one that changes from call to call is found by replaying the example.
Source: "CUDA Graphs", PyTorch documentation; Nguyen et al. 2021, "Accelerating PyTorch with CUDA Graphs".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Conflict, Method, Setting, Situation, run_example
from hybrid_core.strategies.runtimes.call_form import describe_tensors, refuse_objects

# Each recording keeps its own buffers; the workload, its quality task and a last smaller batch fit.
MOST_RECORDINGS = 8
# Libraries choose algorithms and make workspaces at the first calls, which cannot be recorded.
WARM_CALLS = 3
TENSORS_ONLY = "a recording replays the same kernels on tensors only"

Form = tuple[Any, ...]


class Recording(Protocol):
    """A recorded call: `replay` runs it again on what the input buffers hold now and writes the same answer buffers."""

    def replay(self) -> None:
        """Run it once more."""
        ...


# Records `work`, returning the recording and what `work` answered: buffers that each replay writes anew.
Recorder = Callable[[Callable[[], Any]], tuple[Recording, Any]]


class RecordedCall:
    """The recorded forms of one module's call. PyTorch drops them from copies of the module, which run unrecorded."""

    def __init__(self, model: nn.Module, record: Recorder) -> None:
        self._model, self._record = model, record
        self._recorded: dict[Form, tuple[list[Tensor], Recording, Any]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Replay the recording of this form; the first call of a form records it.

        Raises:
            StrategyUnsupported: too many forms, or a call that cannot be recorded.
        """
        leaves, spec = pytree.tree_flatten((args, kwargs))
        form = form_of(leaves, spec)
        if form not in self._recorded:
            self._recorded[form] = self._new(leaves, spec)
        held, recording, answer = self._recorded[form]
        with torch.no_grad():
            for buffer, tensor in zip(held, _tensors(leaves), strict=True):
                buffer.copy_(tensor)
            recording.replay()
            return _copied(answer)

    def _new(self, leaves: list[Any], spec: Any) -> tuple[list[Tensor], Recording, Any]:
        if len(self._recorded) >= MOST_RECORDINGS:
            raise StrategyUnsupported(
                f"{MOST_RECORDINGS} forms of the call are recorded and another one came, "
                f"{describe_tensors(_tensors(leaves))}; each keeps memory of its own, so leave CUDA graphs off for "
                "calls whose sizes change"
            )
        with torch.inference_mode(False):  # buffers made in inference mode could not be written to outside of it
            held = [tensor.detach().clone() for tensor in _tensors(leaves)]
        rest = iter(held)
        args, kwargs = pytree.tree_unflatten([next(rest) if isinstance(v, Tensor) else v for v in leaves], spec)
        try:
            with torch.inference_mode(False), torch.no_grad():
                recording, answer = self._record(lambda: self._model._call_impl(*args, **kwargs))  # type: ignore[no-untyped-call]
        except StrategyUnsupported:
            raise
        except RuntimeError as error:
            first = (str(error).splitlines() or ["no message"])[0]
            raise StrategyUnsupported(
                f"{type(self._model).__name__} cannot be recorded as a CUDA graph ({first:.160}); a call that waits "
                "for the GPU or decides by its values cannot; leave this setting off for it"
            ) from error
        refuse_objects(pytree.tree_leaves(answer), "answers with", TENSORS_ONLY)
        return held, recording, answer


def form_of(leaves: list[Any], spec: Any) -> Form:
    """What a recording holds for: nesting, constants, and of each tensor its sizes, type and device; never its values.

    Raises:
        StrategyUnsupported: an argument is neither a tensor nor a plain constant.
    """
    refuse_objects(leaves, "is called with", TENSORS_ONLY)
    return (
        spec,
        *(
            # The type belongs to a constant: 1, 1.0 and True are equal and need not give the same answer.
            (tuple(v.shape), v.dtype, v.device) if isinstance(v, Tensor) else (type(v), v)
            for v in leaves
        ),
    )


def record_on_gpu(work: Callable[[], Any]) -> tuple[Recording, Any]:
    """Warm up on a stream of its own, as recording demands, and record."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_CALLS):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = work()
    return graph, answer


def record_in_place(model: nn.Module, situation: Situation, record: Recorder = record_on_gpu) -> Applied:
    """Fill the compiled slot with recordings and make the example's; raises where it cannot be recorded or differs."""
    expected = _copied(run_example(model, situation))
    call = RecordedCall(model, record)
    model._compiled_call_impl = call  # type: ignore[assignment]
    for _ in range(2):  # the first call records, the second one replays only
        _compare(expected, run_example(model, situation))
    if not call._recorded:
        raise StrategyUnsupported("the workload never calls the model itself, only parts of it: nothing to record")
    return Applied(
        model,
        (
            f"the call of {type(model).__name__} is recorded as a CUDA graph for {len(call._recorded)} forms and "
            "replayed; its answers are copied out",
        ),
    )


def _compare(expected: Any, found: Any) -> None:
    for one, other in zip(_tensors(pytree.tree_leaves(expected)), _tensors(pytree.tree_leaves(found)), strict=True):
        if not torch.allclose(one, other, rtol=1e-2, atol=1e-3, equal_nan=True):
            raise StrategyUnsupported(
                f"the replayed call differs from the model by {float((one - other).abs().max()):.1e}; what it computes "
                "changes from call to call, so leave CUDA graphs off for it"
            )


def _unsupported(model: nn.Module, situation: Situation) -> str | None:
    if situation.workload.kind == "decode":
        return (
            "a decode's key-value cache grows at each step, and a recording repeats one size; use it for a workload of "
            "whole calls"
        )
    for name, module in model.named_modules():
        if getattr(module, "_compiled_call_impl", None) is not None:
            where = f"'{name}'" if name else "the model"
            return f"{where} is already compiled by torch.compile; choose one of the two"
    return None


def _unavailable(device: str) -> str | None:
    if not device.startswith("cuda"):
        return f"CUDA graphs record kernels of an NVIDIA GPU, and this device is '{device}'"
    return None if torch.cuda.is_available() else "CUDA graphs need an NVIDIA GPU, and PyTorch sees none"


def _tensors(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _copied(value: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)


CUDAGRAPHS = Method(
    Setting(
        name="cudagraphs",
        sentence="The kernels of a call are recorded once and replayed together, without Python between them.",
        stage=92,
        exact=True,
        expected_cost_s=3.0,
        references=("https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs",),
    ),
    apply=record_in_place,
    unsupported=_unsupported,
    unavailable=_unavailable,
    conflicts=tuple(
        Conflict(
            "cudagraphs",
            "memory_pooling",
            other,
            "a recording repeats one size on fixed memory, and this setting's memory changes from call to call",
        )
        for other in ("preallocated", "static_cache", "static_step", "quantized_cache")
    ),
)
