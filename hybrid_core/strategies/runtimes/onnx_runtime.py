"""`onnxruntime`: the whole call as one graph in ONNX Runtime, with its fused kernels and its planned buffers.

Threads are those of PyTorch when the session is made, and none of them spins while it waits, so that a measurement of
one does not slow the other. No memory pattern is planned ahead: on the models tried that is as fast and half of the
memory. The arena grows by doubling and keeps what it has, so up to half of the working memory that is counted for a
session is reserved ahead.
Source: ONNX Runtime documentation, "Thread management" and "Graph optimizations".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from hybrid_core.strategies.base import ANY_SETTING, Applied, Conflict, Method, Setting, Situation
from hybrid_core.strategies.runtimes.installed import cpu_only_reason, missing_reason
from hybrid_core.strategies.runtimes.session import Session, Sizes, run_elsewhere

LIBRARIES = ("onnxruntime", "onnx", "onnxscript")
# Relative error of the example that rounding may cause.
ROUNDING = 1e-3


class OnnxSession:
    """One InferenceSession; inputs are shared with PyTorch, answers are the runtime's own, fresh at each call."""

    # Activations come at the first call: all that making the session allocates is weights.
    weight_bytes: int | None = None

    def __init__(self, session: Any, share: Callable[[Any], Any]) -> None:
        self._session, self._share = session, share
        self._inputs = [node.name for node in session.get_inputs()]
        self._outputs = [node.name for node in session.get_outputs()]

    def run(self, tensors: list[Tensor]) -> list[Tensor]:
        """One call."""
        arrays = [tensor.detach().contiguous().numpy() for tensor in tensors]
        feed = {name: self._share(array) for name, array in zip(self._inputs, arrays, strict=True)}
        answers = self._session.run_with_ort_values(self._outputs, feed)
        # The tensor keeps the runtime's value alive, so its memory is not used again before the caller is done.
        return [from_dlpack(value._ortvalue) for value in answers]


class OnnxRuntime:
    """Opens graph files in ONNX Runtime on the CPU."""

    name = "ONNX Runtime"

    def open(self, path: Path, sizes: Sizes | None) -> Session:
        """A session; open sizes are fixed by the names that the export gave them."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.enable_mem_pattern = False
        options.log_severity_level = 4
        for name, size in _named_sizes(path, sizes).items():
            options.add_free_dimension_override_by_name(name, size)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return OnnxSession(session, onnxruntime.OrtValue.ortvalue_from_numpy)


def _named_sizes(path: Path, sizes: Sizes | None) -> dict[str, int]:
    """What each open size of the inputs is called in the file, with the size it gets."""
    if sizes is None:
        return {}
    import onnx

    inputs = onnx.load(str(path), load_external_data=False).graph.input
    shapes = [[dimension.dim_param for dimension in node.type.tensor_type.shape.dim] for node in inputs]
    return {
        name: size
        for names, own in zip(shapes, sizes, strict=True)
        for name, size in zip(names, own, strict=True)
        if name
    }


def refuse_decode(model: nn.Module, situation: Situation) -> str | None:
    """The cheap reason why a session cannot stand in for the model."""
    if situation.workload.kind == "decode":
        return (
            "a decode hands a growing key-value cache object to the model, and a session takes and gives tensors only; "
            "use it for a workload of whole calls"
        )
    return None


def runtime_conflicts(setting: str) -> tuple[Conflict, ...]:
    """What a session as kernel_fusion leaves no room for."""
    return (
        Conflict(
            setting,
            "quantization",
            ANY_SETTING,
            "layers that PyTorch quantized have no operator in the exported graph; onnx_int8_dynamic and openvino_int8 "
            "quantize inside the runtime by themselves",
        ),
        Conflict(
            setting,
            "memory_pooling",
            ANY_SETTING,
            "memory_pooling arranges tensors of PyTorch, and a session keeps weights and buffers of its own instead",
        ),
    )


def _apply(model: nn.Module, situation: Situation) -> Applied:
    return run_elsewhere(model, situation, OnnxRuntime(), ROUNDING)


ONNXRUNTIME = Method(
    Setting(
        name="onnxruntime",
        sentence="The model is exported as one graph and runs in ONNX Runtime, which fuses and plans it as a whole.",
        stage=90,
        exact=True,
        expected_cost_s=15.0,
        references=("https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html",),
    ),
    apply=_apply,
    unsupported=refuse_decode,
    unavailable=lambda device: cpu_only_reason("onnxruntime", device) or missing_reason("onnxruntime", LIBRARIES),
    conflicts=runtime_conflicts("onnxruntime"),
)
