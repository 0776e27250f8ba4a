"""Example inputs: inferred where the first layer tells, asked for by name where it does not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hybrid_core import get_all_models
from hybrid_core.application import forward_workload
from hybrid_core.errors import InvalidInput
from hybrid_core.examples import checked_inputs, describe_inputs, infer_inputs, private_copy


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        return self.head(self.table(tokens))


class Misleading(nn.Module):
    """Its first registered layer is not the first one called."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 2)
        self.first = nn.Linear(7, 5)

    def forward(self, x):
        return self.last(self.first(x))


@pytest.mark.parametrize(
    ("model", "described"),
    [
        (nn.Sequential(nn.Linear(128, 256), nn.ReLU()), "float32 32x128"),
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(7, 2))), "float32 32x7"),
        (nn.Linear(9, 2, dtype=torch.float64), "float64 32x9"),
        (nn.Linear(9, 2, dtype=torch.bfloat16), "bfloat16 32x9"),
        (nn.LayerNorm((4, 6)), "float32 32x4x6"),
        (Tokens(), "int64 1x64"),
    ],
)
def test_the_first_layer_tells_shape_and_type(model, described):
    inputs = checked_inputs(model)
    assert describe_inputs(inputs) == described
    model(*inputs)


def test_inferred_tokens_are_in_the_table_and_not_all_equal():
    (tokens,) = infer_inputs(Tokens())
    assert 0 <= tokens.min() and tokens.max() < 11 and len(tokens.unique()) > 3


def test_inferring_is_repeatable_and_uses_no_global_random_numbers():
    one, other, tokens = nn.Linear(3, 3), nn.Linear(3, 3, bias=False), Tokens()
    before = torch.get_rng_state()
    assert torch.equal(infer_inputs(one)[0], infer_inputs(other)[0])
    infer_inputs(tokens)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", sorted(get_all_models()))
def test_every_registry_model_knows_its_own_inputs(name):
    model = get_all_models()[name]()
    inputs = checked_inputs(model)
    with torch.no_grad():
        answer = model(*inputs)
    parts = (answer,) if isinstance(answer, torch.Tensor) else answer
    assert all(torch.isfinite(part).all() for part in parts)


@pytest.mark.parametrize(
    ("model", "asks"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3)), "Conv2d.in_channels=3., which does not tell the height and width"),
        (nn.Conv1d(2, 4, 3), "does not tell the length"),
        (nn.LSTM(4, 4), "starts with LSTM"),
        (nn.ReLU(), "no layer with parameters"),
    ],
)
def test_what_the_first_layer_does_not_tell_is_asked_for_by_name(model, asks):
    with pytest.raises(InvalidInput, match=f"{asks}.*pass example_inputs="):
        checked_inputs(model)


def test_a_wrong_guess_is_found_out_before_anything_is_built_on_it():
    with pytest.raises(
        InvalidInput, match="Misleading failed on the inputs inferred .*float32 32x5.*pass example_inputs"
    ):
        checked_inputs(Misleading())
    assert checked_inputs(Misleading(), torch.ones(1, 7))[0].shape == (1, 7)


@pytest.mark.parametrize("given", [torch.ones(2, 9), (torch.ones(2, 9),), [torch.ones(2, 9)]])
def test_given_inputs_may_be_a_tensor_a_tuple_or_a_list(given):
    assert describe_inputs(checked_inputs(nn.Linear(9, 2), given)) == "float32 2x9"


@pytest.mark.parametrize("given", [(), [], {"x": 1}, "tensor", 5])
def test_inputs_of_another_kind_are_refused(given):
    with pytest.raises(InvalidInput, match="example_inputs="):
        checked_inputs(nn.Linear(9, 2), given)


def test_inputs_the_module_does_not_accept_are_refused_with_its_own_words():
    with pytest.raises(InvalidInput, match="given as example_inputs .float32 2x8.*shapes cannot be multiplied"):
        checked_inputs(nn.Linear(9, 2), torch.ones(2, 8))


@pytest.mark.parametrize("model", [None, "llama", nn.Linear, lambda x: x])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(InvalidInput, match="give a torch.nn.Module"):
        private_copy(model)


def test_a_module_that_cannot_be_copied_is_refused():
    model = nn.Linear(2, 2)
    model.kept = model(torch.ones(1, 2)) * 2
    with pytest.raises(InvalidInput, match="cannot be deep-copied"):
        private_copy(model)


def test_trying_the_inputs_leaves_running_statistics_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    before = copy.deepcopy(model.state_dict())
    checked_inputs(model)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_workload_of_a_call_names_batch_and_length():
    assert forward_workload((torch.ones(32, 128),)).label == "forward, batch 32"
    assert forward_workload((torch.ones(2, 64, dtype=torch.long),)).label == "forward, batch 2 x 64"
    assert forward_workload((torch.tensor(1.0),)).batch == 1
