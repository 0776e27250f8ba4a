"""Kernel fusion: several operations become one, by arithmetic, by a compiler, or by another runtime.

Folding moves the constants of a normalisation into the weights of its neighbour, so that an operation disappears.
Compiling generates kernels that do several elementwise steps in one pass over memory. Sources stand in the files of
the methods.
"""

from __future__ import annotations

from hybrid_core.strategies.base import Family
from hybrid_core.strategies.kernels.aot import AOT
from hybrid_core.strategies.kernels.compilation import COMPILE, COMPILE_FREEZING, COMPILE_MAX_AUTOTUNE
from hybrid_core.strategies.kernels.cuda_graphs import CUDAGRAPHS
from hybrid_core.strategies.kernels.fold import FOLD
from hybrid_core.strategies.kernels.merge import MERGE
from hybrid_core.strategies.kernels.regional import COMPILE_REGIONAL
from hybrid_core.strategies.runtimes.onnx_runtime import ONNXRUNTIME
from hybrid_core.strategies.runtimes.open_vino import OPENVINO

KERNEL_FUSION = Family(
    name="kernel_fusion",
    title="Kernel fusion",
    purpose="Merges neighbouring operations, so that fewer kernels run and fewer results travel through memory.",
    claimed={"speed": 1.2, "memory": 1.1, "accuracy": 0.99},
    methods=(
        FOLD,
        MERGE,
        COMPILE,
        COMPILE_REGIONAL,
        COMPILE_FREEZING,
        COMPILE_MAX_AUTOTUNE,
        AOT,
        CUDAGRAPHS,
        ONNXRUNTIME,
        OPENVINO,
    ),
)
