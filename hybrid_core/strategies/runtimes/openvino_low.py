"""`openvino_int8` and `openvino_bf16`: OpenVINO with fewer bits, for weights and activations both.

int8 is static: NNCF watches the activations on calibration inputs and writes their ranges into the graph, so a call
computes no scales. The inputs are made like those of the workload but are never those that are compared or timed.
Without VNNI the kernels overflow in 16 bits (259 for a sum of 512 ones), so weights keep seven bits there.
bfloat16 needs no calibration, only a processor with units for it: elsewhere it would be emulated.
Sources: NNCF (Kozlov et al. 2020, arXiv 2002.08679); OpenVINO documentation, "Precision control".
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Method, Setting, Situation
from hybrid_core.strategies.runtimes.call_form import CallForm, given_tensors
from hybrid_core.strategies.runtimes.graph_file import GraphFile
from hybrid_core.strategies.runtimes.installed import cpu_only_reason, missing_reason
from hybrid_core.strategies.runtimes.onnx_int8 import (
    LOSSY,
    needs_reduced_range,
    own_runtime_conflicts,
    processor_flags,
)
from hybrid_core.strategies.runtimes.onnx_runtime import refuse_decode
from hybrid_core.strategies.runtimes.open_vino import LIBRARIES, OpenVino, silent_openvino
from hybrid_core.strategies.runtimes.session import run_elsewhere

# Of a batch of one, eight calls are eight pages or pictures; ranges found on so few were off by 20 % on others.
CALIBRATION_CALLS, CALIBRATION_ITEMS = 8, 64
PRODUCTS = ("MatMul", "Convolution", "GroupConvolution")
ONLY_RESHAPE = ("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Concat")
BFLOAT16_UNITS = frozenset({"avx512_bf16", "amx_bf16"})


def calibration_tensors(model: nn.Module, situation: Situation, form: CallForm) -> list[list[Tensor]]:
    """What the model is called with on fresh inputs, or on noisy copies of the example where no others can be made."""
    items = situation.workload.batch * max(1, situation.workload.length)
    wanted = max(CALIBRATION_CALLS, math.ceil(CALIBRATION_ITEMS / items))
    if situation.fresh_inputs is None:
        generator = torch.Generator().manual_seed(0)
        inputs = [_noisy(situation.example_inputs, generator) for _ in range(wanted - 1)]
        inputs.insert(0, situation.example_inputs)
    else:
        inputs = [situation.fresh_inputs(turn) for turn in range(wanted)]
    calls = [call for one in inputs for call in given_tensors(model, situation, one, form)]
    return calls[: 4 * wanted]


def _noisy(value: Any, generator: torch.Generator) -> Any:
    """A copy with a tenth of its own spread added to floating tensors, and rows of whole numbers rolled."""

    def change(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return tensor
        if tensor.is_floating_point() and tensor.numel() > 1:
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            return tensor + noise * 0.1 * tensor.std(correction=0)
        if tensor.dim() > 1:
            return tensor.roll(int(torch.randint(1, tensor.shape[1] + 1, (), generator=generator)), 1)
        return tensor.clone()

    return torch.utils._pytree.tree_map(change, value)


def quantize_static(graph: GraphFile, calls: list[list[Tensor]]) -> tuple[Path, str]:
    """Write the calibrated int8 form of a graph file beside it."""
    openvino = silent_openvino()
    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    core = openvino.Core()
    model = core.read_model(str(graph.path))
    kinds = {operation.get_type_name() for operation in model.get_ops()}
    is_transformer = bool(kinds & {"Softmax", "ScaledDotProductAttention"})
    kept = products_of_reductions(model) if is_transformer else []
    data = nncf.Dataset([[tensor.detach().contiguous().numpy() for tensor in call] for call in calls])
    reduced = needs_reduced_range(platform.machine(), processor_flags())
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            quantized = nncf.quantize(
                model,
                data,
                model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
                subset_size=len(calls),
                ignored_scope=nncf.IgnoredScope(names=kept) if kept else None,
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    # Else the extremes of single calls are averaged, and whatever is brighter than usual is cut off.
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                    # Half the range for every weight; NNCF's own choice halves that of the first layers alone.
                    overflow_fix=OverflowFix.ENABLE if reduced else OverflowFix.DISABLE,
                ),
            )
    except Exception as error:  # NNCF and OpenVINO raise classes of their own, one for each thing they lack
        first = (str(error).splitlines() or ["no message"])[0]
        raise StrategyUnsupported(f"NNCF cannot quantize the graph ({type(error).__name__}: {first:.200})") from error
    count = sum(operation.get_type_name() == "FakeQuantize" for operation in quantized.get_ops())
    if not count:
        raise StrategyUnsupported("NNCF found no product or convolution to quantize in the graph")
    path = graph.path.with_suffix(".int8.xml")
    openvino.save_model(quantized, str(path), compress_to_fp16=False)
    said = f"NNCF put {count} int8 ranges into the graph, found on {len(calls)} calibration calls"
    said += "; weights keep 7 bits, for this processor has no VNNI" if reduced else ""
    return path, said + (f"; {len(kept)} products behind a mean or sum stay float32" if kept else "")


def products_of_reductions(model: Any) -> list[str]:
    """Names of the products and convolutions that read a mean, sum or extreme, directly or in another shape.

    In transformers NNCF puts a scale per channel in front of each product. OpenVINO 2026.4 fuses it with the range into
    the reduction before, and that kernel is wrong: a product behind a mean over 108 places was off by 44 % where int8
    costs 3 %. These products are small and stay as they are.
    """
    found: dict[str, None] = {}
    reached = [operation for operation in model.get_ops() if operation.get_type_name().startswith("Reduce")]
    while reached:
        for target in reached.pop().output(0).get_target_inputs():
            reader = target.get_node()
            if reader.get_type_name() in PRODUCTS:
                found.setdefault(reader.get_friendly_name())
            elif reader.get_type_name() in ONLY_RESHAPE and target.get_index() == 0:
                reached.append(reader)
    return list(found)


def _apply_int8(model: nn.Module, situation: Situation) -> Applied:
    def prepare(graph: GraphFile) -> tuple[Path, str]:
        return quantize_static(graph, calibration_tensors(model, situation, graph.form))

    return run_elsewhere(model, situation, OpenVino(), LOSSY, prepare)


def _no_bfloat16_reason(device: str) -> str | None:
    reason = cpu_only_reason("openvino_bf16", device) or missing_reason("openvino_bf16", LIBRARIES)
    if reason is None and not processor_flags() & BFLOAT16_UNITS:
        return "this processor has no bfloat16 units (avx512_bf16 or amx_bf16), so bfloat16 would be emulated; use int8"
    return reason


OPENVINO_INT8 = Method(
    Setting(
        name="openvino_int8",
        sentence="Runs in OpenVINO with int8 weights and activations, whose ranges NNCF found on calibration inputs.",
        stage=90,
        exact=False,
        expected_cost_s=30.0,
        references=("https://arxiv.org/abs/2002.08679",),
    ),
    apply=_apply_int8,
    unsupported=refuse_decode,
    unavailable=lambda device: (
        cpu_only_reason("openvino_int8", device) or missing_reason("openvino_int8", (*LIBRARIES, "nncf"))
    ),
    conflicts=own_runtime_conflicts("openvino_int8"),
)
OPENVINO_BF16 = Method(
    Setting(
        name="openvino_bf16",
        sentence="Runs in OpenVINO with bfloat16 arithmetic, on processors that have units for it.",
        stage=90,
        exact=False,
        expected_cost_s=15.0,
        references=("https://docs.openvino.ai/2026/openvino-workflow/running-inference.html",),
    ),
    apply=lambda model, situation: run_elsewhere(model, situation, OpenVino("bf16"), LOSSY),
    unsupported=refuse_decode,
    unavailable=_no_bfloat16_reason,
    conflicts=own_runtime_conflicts("openvino_bf16"),
)
