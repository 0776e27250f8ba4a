"""Whatever way an attention is written, the rewriter reproduces it or refuses it with a sentence."""

import copy
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.attention.search import count_fused_calls
from hybrid_core.strategies.attention_fusion import ATTENTION_FUSION
from hybrid_core.strategies.base import Situation
from tests.hybrid_core.strategies.generated_attention import CHOICES, DIM, TWISTS, Generated, Spelling, spellings

EXAMPLES, MOST_REFUSED = 30, 0.05
QUIET = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
PLAIN = {name: options[0] for name, options in CHOICES.items()}


def inputs(batch, rows, seed):
    return torch.randn(batch, rows, DIM, generator=torch.Generator().manual_seed(seed))


def fuse_or_refuse(spelling):
    """The refusal, or None after the fused form gave equal outputs for inputs of three other sizes."""
    model = Generated(spelling).eval()
    example = Situation((inputs(2, 7, 0),), lambda m, i: m(*i), Workload("forward", "forward", 2))
    try:
        changed = ATTENTION_FUSION.apply("sdpa", copy.deepcopy(model), example).model
    except StrategyUnsupported as refusal:
        assert len(str(refusal).split()) >= 6, f"no sentence: '{refusal}'"
        return str(refusal)
    with torch.no_grad():
        for seed, (batch, rows) in enumerate(((2, 7), (3, 12), (5, 4))):
            x = inputs(batch, rows, seed + 1)
            torch.testing.assert_close(changed(x), model(x), rtol=1e-5, atol=1e-5)
            assert count_fused_calls(lambda: changed(x)) == 1  # noqa: B023
    return None


def test_nearly_every_generated_attention_is_fused_and_every_result_is_equal():
    ended = Counter()
    reasons = []

    @settings(max_examples=EXAMPLES, **QUIET)
    @given(spellings())
    def generate(spelling):
        refusal = fuse_or_refuse(spelling)
        ended[refusal is None] += 1
        if refusal is not None:
            reasons.append(f"{refusal}: {spelling}")

    generate()
    assert ended.total() >= EXAMPLES
    assert ended[False] <= MOST_REFUSED * ended.total(), reasons


@settings(max_examples=8, **QUIET)
@given(spellings(st.sampled_from(TWISTS)))
def test_every_generated_module_that_is_not_plain_attention_is_refused(spelling):
    assert fuse_or_refuse(spelling) is not None


@pytest.mark.parametrize("mask", CHOICES["mask"])
def test_each_kind_of_mask_is_fused_when_it_is_scaled_too(mask):
    assert fuse_or_refuse(Spelling(**{**PLAIN, "mask": mask, "mask_first": True, "scale": "divide"})) is None
