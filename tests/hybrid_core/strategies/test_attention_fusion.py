import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.records import Workload
from hybrid_core.strategies.attention_search import count_fused_calls
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.fused_attention import MOST_FORMS, FusedAttention
from hybrid_core.strategies.registry import get_strategy


def _spellings():
    spec = importlib.util.spec_from_file_location("attention_spellings", Path(__file__).with_name("attention_spellings.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["attention_spellings"] = module
    spec.loader.exec_module(module)
    return module


spellings = _spellings()
DIM = spellings.DIM
SDPA = get_strategy("attention_fusion")


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(kind):
    torch.manual_seed(1)
    return kind().eval()


def situation(*example):
    return Situation(example, lambda m, i: m(*i), Workload("forward", "forward", example[0].shape[0]))


def fused(model, *example):
    return SDPA.apply("sdpa", copy.deepcopy(model), situation(*example)).model


@pytest.mark.parametrize("kind", spellings.FUSED, ids=lambda k: k.__name__)
def test_each_spelling_runs_as_one_fused_call_with_equal_outputs(kind):
    model, x = made(kind), inputs(2, 10, DIM)
    changed = fused(model, x)
    fresh = inputs(2, 10, DIM, seed=5)
    with torch.no_grad():
        torch.testing.assert_close(changed(fresh), model(fresh), rtol=1e-5, atol=1e-5)
        assert count_fused_calls(lambda: changed(fresh)) == 1
        assert count_fused_calls(lambda: model(fresh)) == 0


@pytest.mark.parametrize("kind", spellings.FUSED, ids=lambda k: k.__name__)
def test_other_lengths_and_batches_stay_right(kind):
    model = made(kind)
    changed = fused(model, inputs(2, 10, DIM))
    for shape in ((2, 7, DIM), (5, 12, DIM), (1, 6, DIM)):
        x = inputs(*shape, seed=3)
        with torch.no_grad():
            torch.testing.assert_close(changed(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", spellings.REFUSED, ids=lambda k: k.__name__)
def test_what_is_not_plain_attention_is_refused_with_its_reason(kind):
    with pytest.raises(StrategyUnsupported, match=kind.reason):
        fused(made(kind), inputs(2, 10, DIM))
