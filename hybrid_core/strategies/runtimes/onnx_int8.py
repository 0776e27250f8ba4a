"""`onnx_int8_dynamic`: int8 weights per output channel in ONNX Runtime, inputs of each product quantized at its call.

No calibration is needed. On x86 processors without VNNI the kernels add neighbouring products in 16 bits and saturate,
so weights keep 7 bits there (`reduce_range`); elsewhere all 8. Convolutions stay as they are: their dynamic int8 kernel
is slower than float. Source: ONNX Runtime documentation, "Quantize ONNX models".
"""

from __future__ import annotations

import logging
import platform
from pathlib import Path

from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import ANY_SETTING, Applied, Conflict, Method, Setting, Situation
from hybrid_core.strategies.runtimes.graph_file import GraphFile
from hybrid_core.strategies.runtimes.installed import cpu_only_reason, missing_reason
from hybrid_core.strategies.runtimes.onnx_runtime import LIBRARIES, OnnxRuntime, refuse_decode
from hybrid_core.strategies.runtimes.session import run_elsewhere

# Relative error of the example above which fewer bits cannot be the reason.
LOSSY = 0.5
QUANTIZED = ("MatMul", "Gemm", "Gather")


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the processor says it can do; empty where the system does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(word for line in lines if line.startswith("flags") for word in line.split(":", 1)[1].split())


def needs_reduced_range(machine: str, flags: frozenset[str]) -> bool:
    """True on x86 without VNNI, and where an x86 system does not tell: 8 bits times 8 bits would saturate.

    >>> needs_reduced_range("x86_64", frozenset({"avx2"})), needs_reduced_range("x86_64", frozenset({"avx_vnni"}))
    (True, False)
    >>> needs_reduced_range("aarch64", frozenset())
    False
    """
    is_x86 = machine.lower() in ("x86_64", "amd64", "i386", "i686")
    return is_x86 and not flags & {"avx512_vnni", "avx_vnni"}


def _quantize(graph: GraphFile) -> tuple[Path, str]:
    """Write the int8 form of a graph file beside it; says how many weights it holds in int8."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(graph.path))
    # The sizes that the exporter noted contradict what the quantizer infers for open sizes; it needs none of them.
    del model.graph.value_info[:]
    reduced = needs_reduced_range(platform.machine(), processor_flags())
    path = graph.path.with_name(f"int8-{graph.path.name}")
    root, before = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it logs advice about a preparation that the exporter has done
    try:
        quantize_dynamic(
            model,
            str(path),
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=reduced,
            weight_type=QuantType.QInt8,
            use_external_data_format=model.ByteSize() > 1_500_000_000,
        )
    except Exception as error:  # shape inference and rewriting fail in as many ways as there are graphs
        first = (str(error).splitlines() or ["no message"])[0]
        raise StrategyUnsupported(
            f"ONNX Runtime cannot quantize the graph ({type(error).__name__}: {first})"
        ) from error
    finally:
        root.setLevel(before)
    held = onnx.load(str(path), load_external_data=False).graph.initializer
    weights = [tensor for tensor in held if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)]
    weights = [tensor for tensor in weights if len(tensor.dims) > 1]
    if not weights:
        raise StrategyUnsupported(
            f"the graph has no constant weight in {', '.join(QUANTIZED)}, and onnx_int8_dynamic quantizes nothing else"
        )
    bits = "7 bits, for this processor has no VNNI" if reduced else "8 bits"
    return path, f"ONNX Runtime keeps {len(weights)} weights as int8 with a scale per output channel ({bits})"


# The settings of kernel_fusion that run the whole model; fold and merge only rewrite it and are welcome before.
RUN_THE_MODEL = (
    "compile",
    "compile_freezing",
    "compile_max_autotune",
    "compile_regional",
    "aot",
    "cudagraphs",
    "onnxruntime",
    "openvino",
)


def own_runtime_conflicts(setting: str) -> tuple[Conflict, ...]:
    """What quantizing inside a runtime leaves no room for: settings that run the model, or arrange its tensors."""
    runs = f"{setting} runs the whole model in a runtime of its own, which leaves nothing to run elsewhere"
    arranges = "memory_pooling arranges tensors of PyTorch, and a session keeps weights and buffers of its own instead"
    return (
        *(Conflict(setting, "kernel_fusion", other, runs) for other in RUN_THE_MODEL),
        Conflict(setting, "memory_pooling", ANY_SETTING, arranges),
    )


def _apply(model: nn.Module, situation: Situation) -> Applied:
    return run_elsewhere(model, situation, OnnxRuntime(), LOSSY, _quantize)


ONNX_INT8_DYNAMIC = Method(
    Setting(
        name="onnx_int8_dynamic",
        sentence="Runs in ONNX Runtime with int8 weights for products and tables; inputs are quantized at each call.",
        stage=90,
        exact=False,
        expected_cost_s=18.0,
        references=(
            "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",
            "https://arxiv.org/abs/1712.05877",
        ),
    ),
    apply=_apply,
    unsupported=refuse_decode,
    unavailable=lambda device: (
        cpu_only_reason("onnx_int8_dynamic", device) or missing_reason("onnx_int8_dynamic", LIBRARIES)
    ),
    conflicts=own_runtime_conflicts("onnx_int8_dynamic"),
)
