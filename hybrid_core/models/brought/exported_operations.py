"""Which operations an exported program may call: PyTorch's own tensor operations and arithmetic on sizes.

A name from the file is never looked up freely: `torch.` leads to everything that Python can import. Operations that
read files, call back into Python, print or skip their own checks are not in.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch

from hybrid_core.errors import InvalidInput

_ATEN = re.compile(r"torch\.ops\.aten\.([A-Za-z_][A-Za-z0-9_]{0,99})\.([A-Za-z_][A-Za-z0-9_]{0,99})")
# Private ones that export and its decompositions write.
_PRIVATE = frozenset(
    """__and__ __or__ __xor__ __lshift__ __rshift__ _adaptive_avg_pool2d _adaptive_avg_pool3d
    _assert_scalar _assert_tensor_metadata _conj _fft_c2c _fft_c2r _fft_r2c
    _local_scalar_dense _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training
    _scaled_dot_product_flash_attention_for_cpu _softmax _to_copy _unsafe_index _unsafe_view _weight_norm""".split()
)
_REFUSED = re.compile(
    r"from_file|.*unsafe.*|.*sparse.*|.*quantize.*|.*mkldnn.*|.*cuda.*|.*cudnn.*|.*miopen.*|set_.*|resize.*|.*storage.*"
    r"|record_stream|rename|.*names.*|.*backward.*|manual_seed|print|warn|save|.*_jvp|.*_vjp"
)
# Drawing numbers makes two calls differ, so a candidate could not be compared with the untouched model.
_RANDOM = re.compile(
    r"(rand|randn|randint|randperm|bernoulli|multinomial|normal|uniform|poisson|native_dropout)(_like)?_?"
)
_SIZES: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in "add sub mul floordiv truediv mod neg eq ne lt le gt ge and_ or_ not_ getitem".split()
    },
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "torch.sym_float": torch.sym_float,
    "torch.sym_int": torch.sym_int,
    "torch.sym_ite": torch.sym_ite,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
    "torch.sym_not": torch.sym_not,
}
# Hints for the exporter about symbols: they compute nothing.
IGNORED = frozenset(
    f"torch.ops.aten.{name}.default"
    for name in ("sym_constrain_range", "sym_constrain_range_for_size", "_assert_scalar", "_assert_tensor_metadata")
)
LINEAR = "torch.ops.aten.linear.default"
SET_GRADIENT = "torch.ops.higher_order.wrap_with_set_grad_enabled"
AUTOCAST = "torch.ops.higher_order.wrap_with_autocast"


@functools.lru_cache(maxsize=4096)
def find_operation(target: str) -> Callable[..., Any]:
    """The function of a node's target.

    Raises:
        InvalidInput: it is not one of those that are allowed.
    """
    if target in _SIZES:
        return _SIZES[target]
    match = _ATEN.fullmatch(target)
    if match is None or (match[1].startswith("_") and match[1] not in _PRIVATE):
        raise InvalidInput(f"operation {target!r:.120} is not allowed; only PyTorch's own tensor operations are called")
    if _REFUSED.fullmatch(match[1]) and match[1] not in _PRIVATE:
        raise InvalidInput(f"operation {target!r:.120} is not allowed: it may reach beyond the program's own tensors")
    if _RANDOM.fullmatch(match[1]):
        raise InvalidInput(f"operation {target!r:.120} draws random numbers; call eval() before torch.export.export")
    operation = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
    if not isinstance(operation, torch._ops.OpOverload):
        raise InvalidInput(f"operation {target!r:.120} does not exist in this PyTorch; export the program with it")
    return operation
