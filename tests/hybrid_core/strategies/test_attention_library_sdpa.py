"""The switch of a transformers model really switches, is counted, and is refused where there is nothing to switch."""

import copy

import pytest
import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.attention.search import count_fused_calls
from hybrid_core.strategies.attention_fusion import ATTENTION_FUSION
from hybrid_core.strategies.base import Situation

pytest.importorskip("transformers", reason="transformers is in requirements-dev.txt, which 'make test' installs")
from tests.hybrid_core.strategies import transformers_families  # noqa: E402

FUSION = ATTENTION_FUSION


def situation(given, call):
    return Situation(given, call, Workload("forward", "forward", 2))


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "DeepseekV3", "ViT", "Bert"])
def test_each_family_is_switched_with_equal_outputs(family):
    model, fresh = transformers_families.build(family), transformers_families.inputs(family, rows=13, batch=3, seed=5)
    for name, call in transformers_families.calls(family).items():
        example = situation(transformers_families.inputs(family), call)
        applied = FUSION.apply("library_sdpa", copy.deepcopy(model), example)
        with torch.no_grad():
            expected = call(model, fresh)
            torch.testing.assert_close(call(applied.model, fresh), expected, rtol=1e-5, atol=1e-5)
            runs = 4 if name == "decode" else 1
            assert count_fused_calls(lambda: call(applied.model, fresh)) == 2 * runs  # noqa: B023
            assert count_fused_calls(lambda: call(model, fresh)) == 0  # noqa: B023


def test_the_copy_has_a_config_of_its_own():
    model = transformers_families.build("Llama")
    given = transformers_families.inputs("Llama")
    FUSION.apply("library_sdpa", copy.deepcopy(model), situation(given, transformers_families.prefill))
    assert model.config._attn_implementation == "eager"


def test_a_switched_model_is_refused_because_it_is_fused_already():
    model, given = transformers_families.build("Llama"), transformers_families.inputs("Llama")
    model.set_attn_implementation("sdpa")
    with pytest.raises(StrategyUnsupported, match="already runs the library's attention 'sdpa'"):
        FUSION.apply("library_sdpa", model, situation(given, transformers_families.prefill))


def test_a_family_without_a_fused_attention_is_refused_with_the_library_s_reason():
    model, given = transformers_families.build("Gemma2"), transformers_families.inputs("Gemma2")
    with pytest.raises(StrategyUnsupported, match="cannot be switched"):
        FUSION.apply("library_sdpa", model, situation(given, transformers_families.prefill))


def test_a_model_without_the_switch_is_refused():
    with pytest.raises(StrategyUnsupported, match="no part of the model has set_attn_implementation"):
        FUSION.apply("library_sdpa", nn.Linear(3, 3).eval(), situation((torch.zeros(2, 3),), lambda m, i: m(*i)))


class Pretends(nn.Module):
    """Takes the switch, stores the name, and computes what it always did."""

    class config:  # noqa: N801
        _attn_implementation = "eager"

    def set_attn_implementation(self, name):
        self.config = type("config", (), {"_attn_implementation": name})

    def forward(self, x):
        return (x @ x.mT).softmax(-1) @ x


def test_a_switch_that_changes_nothing_is_found_out():
    with pytest.raises(StrategyUnsupported, match="added no fused call"):
        FUSION.apply("library_sdpa", Pretends().eval(), situation((torch.zeros(2, 3, 3),), lambda m, i: m(*i)))
