"""Quantization: fewer bits for weights, and where the processor has the kernels for activations too.

Each method is done by the field's library where it runs on the device at hand. Sources stand in the files of the
methods.
"""

from __future__ import annotations

from hybrid_core.strategies.base import Family
from hybrid_core.strategies.precision.bfloat16 import BFLOAT16
from hybrid_core.strategies.precision.float8 import FLOAT8
from hybrid_core.strategies.precision.float16 import FLOAT16
from hybrid_core.strategies.precision.int4_weight_only import INT4_GROUP32, INT4_GROUP128
from hybrid_core.strategies.precision.int8_dynamic import INT8_DYNAMIC, INT8_KEEP_ENDS
from hybrid_core.strategies.precision.int8_static import INT8_STATIC
from hybrid_core.strategies.precision.int8_weight_only import INT8_WEIGHT_ONLY
from hybrid_core.strategies.precision.mixed_precision import MIXED_1, MIXED_5
from hybrid_core.strategies.runtimes.onnx_int8 import ONNX_INT8_DYNAMIC
from hybrid_core.strategies.runtimes.openvino_low import OPENVINO_BF16, OPENVINO_INT8
from hybrid_core.strategies.runtimes.openvino_weights import OPENVINO_INT8_WEIGHTS

QUANTIZATION = Family(
    name="quantization",
    title="Quantization",
    purpose="Stores weights in fewer bits, which saves memory and, where the processor has the kernels, time.",
    claimed={"speed": 1.5, "memory": 2.0, "accuracy": 0.97},
    methods=(
        INT8_DYNAMIC,
        INT8_KEEP_ENDS,
        INT8_STATIC,
        INT8_WEIGHT_ONLY,
        INT4_GROUP32,
        INT4_GROUP128,
        BFLOAT16,
        FLOAT16,
        FLOAT8,
        MIXED_1,
        MIXED_5,
        ONNX_INT8_DYNAMIC,
        OPENVINO_INT8,
        OPENVINO_INT8_WEIGHTS,
        OPENVINO_BF16,
    ),
)
