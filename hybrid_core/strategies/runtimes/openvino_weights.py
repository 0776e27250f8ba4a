"""`openvino_int8_weights`: OpenVINO with int8 weights only, which needs no calibration and rounds no activation ahead.

NNCF stores the weights of products and tables as int8 with a scale and a zero for each output channel; the runtime
widens them inside its products. Its own choice to round activations at each call besides (dynamic quantization) is
switched off, so that what is measured is what the setting says. Convolutions keep their weights.
Source: OpenVINO documentation, "Weight Compression"; NNCF (Kozlov et al. 2020, arXiv 2002.08679).
"""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path

from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Method, Setting, Situation
from hybrid_core.strategies.runtimes.graph_file import GraphFile
from hybrid_core.strategies.runtimes.installed import cpu_only_reason, missing_reason
from hybrid_core.strategies.runtimes.onnx_int8 import LOSSY, own_runtime_conflicts
from hybrid_core.strategies.runtimes.onnx_runtime import refuse_decode
from hybrid_core.strategies.runtimes.open_vino import LIBRARIES, OpenVino, silent_openvino
from hybrid_core.strategies.runtimes.session import run_elsewhere

NAME = "openvino_int8_weights"


def compress(graph: GraphFile) -> tuple[Path, str]:
    """Write the form with int8 weights of a graph file beside it; says how many there are."""
    openvino = silent_openvino()
    import nncf

    model = openvino.Core().read_model(str(graph.path))
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            small = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    except Exception as error:  # NNCF and OpenVINO raise classes of their own, one for each thing they lack
        first = (str(error).splitlines() or ["no message"])[0]
        raise StrategyUnsupported(f"NNCF cannot compress the weights ({type(error).__name__}: {first:.200})") from error
    narrow = [openvino.Type.u8, openvino.Type.i8]
    held = [op for op in small.get_ops() if op.get_type_name() == "Constant" and op.get_element_type() in narrow]
    count = sum(len(op.get_output_shape(0)) > 1 and min(op.get_output_shape(0)) > 1 for op in held)
    if not count:
        raise StrategyUnsupported(f"the graph has no constant weight of a product or table, and {NAME} stores no other")
    path = graph.path.with_suffix(".weights.xml")
    openvino.save_model(small, str(path), compress_to_fp16=False)
    return path, f"NNCF stored {count} weights as int8 with a scale and a zero per output channel"


def _apply(model: nn.Module, situation: Situation) -> Applied:
    return run_elsewhere(model, situation, OpenVino(rounds_activations=False), LOSSY, compress)


OPENVINO_INT8_WEIGHTS = Method(
    Setting(
        name=NAME,
        sentence="Runs in OpenVINO with int8 weights, which its products widen; activations stay float32.",
        stage=90,
        exact=False,
        expected_cost_s=15.0,
        references=("https://arxiv.org/abs/2002.08679",),
    ),
    apply=_apply,
    unsupported=refuse_decode,
    unavailable=lambda device: cpu_only_reason(NAME, device) or missing_reason(NAME, (*LIBRARIES, "nncf")),
    conflicts=own_runtime_conflicts(NAME),
)
