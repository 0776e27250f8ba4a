import copy
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.models.registry import get_entry
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.kernels.merge import MergedPart
from hybrid_core.strategies.registry import get_strategy

STRATEGY = get_strategy("kernel_fusion")
WIDTH = 8


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def situation(*example):
    return Situation(example, lambda m, i: m(*i), Workload("forward", "forward", example[0].shape[0]))


def merge(model, *example):
    return STRATEGY.apply("merge", copy.deepcopy(model.eval()), situation(*example)).model


def wide_layers(model):
    return sorted(name.rpartition(".")[2] for name, m in model.named_modules() if "merged_" in name and m is not None)


class Three(nn.Module):
    """Queries, keys and values; `between` sees x after the first reader."""

    def __init__(self, between=None, sizes=(8, 4, 12), biases=(True, True, True)):
        super().__init__()
        self.between = between
        self.a, self.b, self.c = (nn.Linear(WIDTH, n, bias=b) for n, b in zip(sizes, biases, strict=True))

    def forward(self, x):
        x = x * 1.5
        first = self.a(x)
        if self.between is not None:
            self.between(x)
        return torch.cat((first, self.b(x).tanh(), self.c(x)), -1)


@pytest.mark.parametrize("biases", [(True,) * 3, (False,) * 3, (True, False, True)], ids=str)
def test_layers_of_different_sizes_and_biases_merge_into_one_that_answers_the_same(biases):
    model = Three(biases=biases)
    merged = merge(model, noise(2, 5, WIDTH))
    assert wide_layers(merged) == ["merged_a_b_c"] and type(merged.merged_a_b_c) is nn.Linear
    for shape in ((2, 5, WIDTH), (7, WIDTH), (1, 3, 2, WIDTH)):
        fresh = noise(*shape, seed=4)
        torch.testing.assert_close(merged(fresh), model(fresh))


def test_no_weight_exists_twice_and_the_old_places_still_answer():
    model = Three()
    merged = merge(model, noise(2, WIDTH))
    assert sum(p.numel() for p in merged.parameters()) == sum(p.numel() for p in model.parameters())
    x = noise(3, WIDTH, seed=2)
    for name in "abc":
        part, layer = getattr(merged, name), getattr(model, name)
        assert isinstance(part, MergedPart) and part.out_features == layer.out_features
        assert part.weight.untyped_storage().data_ptr() == merged.merged_a_b_c.weight.untyped_storage().data_ptr()
        torch.testing.assert_close(part(x), layer(x))
        torch.testing.assert_close(part.bias, layer.bias)


def test_a_copy_is_independent_and_a_cast_reaches_every_part():
    merged = merge(Three(), noise(2, WIDTH))
    copied = copy.deepcopy(merged).double()
    assert copied(noise(2, WIDTH).double()).dtype == torch.float64
    assert copied.a(noise(2, WIDTH).double()).dtype == torch.float64
    assert merged(noise(2, WIDTH)).dtype == torch.float32


def test_dynamic_int8_finds_the_merged_layer_and_the_parts_follow_it():
    model, example = Three(sizes=(32, 32, 32)), noise(4, WIDTH)
    merged = merge(model, example)
    changed = get_strategy("quantization").apply("int8_dynamic", merged, situation(example))
    assert "1 of 1 nn.Linear" in changed.changes[0]
    expected = model(example)
    assert (changed.model(example) - expected).norm() < 0.1 * expected.norm()
    assert (changed.model.b(example) - model.b(example)).norm() < 0.1 * model.b(example).norm()


class WritesIntoX(nn.Module):
    def forward(self, x):
        return x.add_(1)


class WritesIntoXLater(nn.Module):
    """Harmless while the example runs: watching cannot tell, so a module of unknown text is never trusted."""

    armed = False

    def forward(self, x):
        return x.add_(1) if self.armed else x


def writes_by_function(x):
    return F.relu(x, True)


@pytest.mark.parametrize(
    "between",
    [WritesIntoX(), WritesIntoXLater(), nn.ReLU(inplace=True), writes_by_function, lambda x: F.relu(x, inplace=True),
     lambda x: torch.add(x, 1, out=x), lambda x: x.mul_(2), lambda x: x[0].zero_(),
     lambda x: F.dropout(x, 0.5, False, True)],
    ids=["module", "module later", "inplace", "by position", "by keyword", "out", "method", "view", "dropout"],
)  # fmt: skip
def test_readers_of_a_tensor_that_may_be_written_in_between_are_not_merged(between):
    model = Three(between)
    try:
        merged = merge(model, noise(2, 5, WIDTH))
    except StrategyUnsupported as refusal:
        assert "nothing can be merged" in str(refusal)
        return
    assert wide_layers(merged) == ["merged_b_c"]
    if isinstance(between, WritesIntoXLater):
        merged.between.armed = model.between.armed = True
    fresh = noise(3, WIDTH, seed=5)
    with torch.no_grad():
        torch.testing.assert_close(merged(fresh), copy.deepcopy(model)(fresh))


class Alias(nn.Module):
    """The view that is written shares memory with what is read."""

    def __init__(self, write):
        super().__init__()
        self.write, self.a, self.b = write, nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)

    def forward(self, x, y):
        flat = x.view(-1, WIDTH)
        first = self.a(flat)
        self.write(y)
        return first + self.b(flat)


def test_a_second_input_may_be_the_first_one_again_so_writing_it_forbids_merging():
    x = noise(3, WIDTH)
    with pytest.raises(StrategyUnsupported, match="nothing can be merged"):
        merge(Alias(WritesIntoX()), x, noise(3, WIDTH, seed=1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.a(x) + self.b(x) + self.b(self.a(x))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(WIDTH, WIDTH)
        self.b = self.a

    def forward(self, x):
        return self.a(x) + self.b(x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.a(x) * self.b(x)


class Special(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class Subclass(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Special(WIDTH, WIDTH), Special(WIDTH, WIDTH)

    def forward(self, x):
        return self.a(x) + self.b(x)


class ReadsWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.a(x) + self.b(x) + F.linear(x, self.a.weight) + F.linear(x, self.b.weight)


class EqualNotSame(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.a(x) + self.b(x.clone())


class ControlFlow(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.a(x) + self.b(x) if x.sum() > 0 else self.a(x)


def hooked():
    model = Three(sizes=(8, 8, 8))
    for layer in (model.a, model.b, model.c):
        layer.register_forward_hook(lambda m, a, out: out + 1)
    return model


@pytest.mark.parametrize("make", [Twice, Shared, Tied, Subclass, ReadsWeights, EqualNotSame, ControlFlow, hooked])
def test_layers_that_are_more_than_one_product_of_one_tensor_are_left_alone(make):
    with pytest.raises(StrategyUnsupported, match="nothing can be merged"):
        merge(make(), noise(2, WIDTH))


class FlattensParts(nn.Module):
    """A part of a row has gaps, which `view` over rows refuses."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)

    def forward(self, x):
        return self.a(x).view(x.shape[0], -1) * self.b(x).view(x.shape[0], -1)


def test_parts_can_be_flattened_though_their_rows_have_gaps():
    model = FlattensParts()
    merged = merge(model, noise(1, 1, WIDTH))
    fresh = noise(3, 6, WIDTH, seed=3)
    torch.testing.assert_close(merged(fresh), model(fresh))


class RandomProgram(nn.Module):
    """A random straight line of linear layers, sums, views and writes over the tensors made so far."""

    def __init__(self, seed):
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=draw.random() < 0.5) for _ in range(16))
        self.act = nn.ReLU(inplace=True)
        kinds = ["linear"] * 5 + ["add", "view", "relu_", "act", "tanh"]
        self.steps = [(draw.choice(kinds), draw.random(), draw.random(), layer) for layer in range(16)]

    def forward(self, x):
        made = [x * 1.0]
        for kind, first, second, layer in self.steps:
            one, other = made[int(first * len(made))], made[int(second * len(made))]
            if kind == "linear":
                made.append(self.layers[layer](one))
            elif kind == "add":
                made.append(one + 0.5 * other)
            elif kind == "view":
                made.append(one.transpose(0, 1).transpose(0, 1))
            elif kind == "relu_":
                F.leaky_relu(one, 0.3, True)
            elif kind == "act":
                self.act(one)
            else:
                made.append(torch.tanh(one))
        return torch.stack(made).sum(0), made[-1]


def test_random_programs_with_views_and_writes_answer_the_same_after_merging():
    merged_models = 0
    for seed in range(40):
        model = RandomProgram(seed).eval()
        try:
            merged = merge(model, noise(2, 3, WIDTH))
        except StrategyUnsupported as refusal:
            assert "nothing can be merged" in str(refusal)
            continue
        merged_models += 1
        for shape in ((2, 3, WIDTH), (5, 1, WIDTH)):
            fresh = noise(*shape, seed=seed + 1)
            with torch.no_grad():
                for one, other in zip(merged(fresh), model(fresh), strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert merged_models >= 15


def test_queries_keys_and_values_and_gate_and_up_of_the_decoder_merge():
    entry = get_entry("llama")
    model, workload = entry.build("tiny", 0), entry.workloads("tiny")[1]
    inputs = entry.make_inputs("tiny", workload, torch.Generator().manual_seed(0))
    where = Situation(inputs, lambda m, i: entry.call(m, workload, i), workload)
    merged = STRATEGY.apply("merge", copy.deepcopy(model), where).model
    assert len(wide_layers(merged)) == 2 * len(model.layers)
    fresh = entry.make_inputs("tiny", workload, torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(where.call(merged, fresh), where.call(model, fresh), rtol=1e-4, atol=1e-4)
