"""`openvino`: the whole call as one graph in OpenVINO, which chooses layouts and fuses kernels for this processor.

The precision is held at float32, because on processors with bfloat16 units OpenVINO would otherwise round to it without
a word. Threads are those of PyTorch when the session is made, and none is bound to a core. Answers are copied out of
the request's own buffers, which its next call overwrites.
Source: OpenVINO documentation, "CPU Device" and "Precision control".
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybrid_core.strategies.base import Applied, Method, Setting, Situation
from hybrid_core.strategies.runtimes.foreign_memory import growth_during
from hybrid_core.strategies.runtimes.installed import cpu_only_reason, missing_reason
from hybrid_core.strategies.runtimes.onnx_runtime import ROUNDING, refuse_decode, runtime_conflicts
from hybrid_core.strategies.runtimes.session import Session, Sizes, run_elsewhere

LIBRARIES = ("openvino", "onnx", "onnxscript")


class OpenVinoSession:
    """One compiled model with one request.

    Compiling allocates packed weights and buffers of activations together, so `weight_bytes` are those of the graph,
    which stay as they are, and the packed copies count as working memory.
    """

    def __init__(self, compiled: Any, weight_bytes: int | None) -> None:
        self.weight_bytes = weight_bytes
        self._request = compiled.create_infer_request()
        self._answers = range(len(compiled.outputs))

    def run(self, tensors: list[Tensor]) -> list[Tensor]:
        """One call; inputs are shared with PyTorch for its length."""
        arrays = [tensor.detach().contiguous().numpy() for tensor in tensors]
        self._request.infer(arrays, share_inputs=True, share_outputs=True)
        return [torch.from_numpy(self._request.get_output_tensor(i).data).clone() for i in self._answers]


class OpenVino:
    """Opens graph files (ONNX or OpenVINO's own) on the CPU, with kernels of the given precision.

    `rounds_activations=False` forbids what it does by itself where weights are int8: rounding the inputs of products.
    """

    name = "OpenVINO"

    def __init__(self, precision: str = "f32", *, rounds_activations: bool = True) -> None:
        self.precision = precision
        self.own_settings = {} if rounds_activations else {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}

    def open(self, path: Path, sizes: Sizes | None) -> Session:
        """A session; open sizes of the file are fixed to `sizes`."""
        openvino = silent_openvino()
        core = openvino.Core()
        # Weights are read into memory and not mapped from the file, which is only there as long as the module.
        core.set_property({"ENABLE_MMAP": False})
        model, weight_bytes = growth_during(lambda: core.read_model(str(path)))
        if sizes is not None:
            model.reshape({i: list(size) for i, size in enumerate(sizes)})
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": self.precision,
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,
                **self.own_settings,
            },
        )
        return OpenVinoSession(compiled, weight_bytes)


def silent_openvino() -> Any:
    """The library, without the reports it and NNCF send over the network when they are imported and used."""
    if "openvino" not in sys.modules:
        # Both carry an empty stand-in for this package and take it where the package cannot be imported.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


def _apply(model: torch.nn.Module, situation: Situation) -> Applied:
    return run_elsewhere(model, situation, OpenVino(), ROUNDING)


OPENVINO = Method(
    Setting(
        name="openvino",
        sentence="The model is exported as one graph and runs in OpenVINO at float32, with its layouts and kernels.",
        stage=90,
        exact=True,
        expected_cost_s=15.0,
        references=("https://docs.openvino.ai/2026/openvino-workflow/running-inference.html",),
    ),
    apply=_apply,
    unsupported=refuse_decode,
    unavailable=lambda device: cpu_only_reason("openvino", device) or missing_reason("openvino", LIBRARIES),
    conflicts=runtime_conflicts("openvino"),
)
