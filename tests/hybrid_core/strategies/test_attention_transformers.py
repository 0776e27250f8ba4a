"""Eager models of the transformers library are fused whole by the rewriter, without and with their caches."""

import copy

import pytest
import torch

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.attention.search import count_fused_calls
from hybrid_core.strategies.attention_fusion import ATTENTION_FUSION
from hybrid_core.strategies.base import Situation

pytest.importorskip("transformers", reason="transformers is in requirements-dev.txt, which 'make test' installs")
from tests.hybrid_core.strategies import transformers_families as families  # noqa: E402


def situation(family, call):
    return Situation(families.inputs(family), call, Workload("forward", "forward", 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name", "calls"),
    [
        ("Llama", "decode", 4), ("Qwen2", "prefill", 1), ("Qwen3", "decode", 4), ("DeepseekV3", "decode", 4),
        ("ViT", "forward", 1), ("Bert", "forward", 1),
    ],
)  # fmt: skip
def test_each_family_is_fused_whole_with_equal_outputs(family, name, calls):
    model, call = families.build(family, layers=1), families.calls(family)[name]
    changed = ATTENTION_FUSION.apply("sdpa", copy.deepcopy(model), situation(family, call)).model
    fresh = families.inputs(family, rows=13, batch=3, seed=5)
    with torch.no_grad():
        torch.testing.assert_close(call(changed, fresh), call(model, fresh), rtol=1e-5, atol=1e-5)
        assert count_fused_calls(lambda: call(changed, fresh)) == calls


def test_a_family_with_a_soft_cap_is_refused_and_says_so():
    model = families.build("Gemma2", layers=1)
    with pytest.raises(StrategyUnsupported, match="soft cap"):
        ATTENTION_FUSION.apply("sdpa", model, situation("Gemma2", families.prefill))
