"""What every entry of the model registry must keep, as functions that raise AssertionError with a sentence.

A new model is tested by adding it to the registry. `test_model_contract.py` also shows the kit entries that break one
promise each, because a kit that passes everything proves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import psutil
import torch
from torch import Tensor

from hybrid_core.errors import InvalidInput
from hybrid_core.models.base import ModelEntry
from hybrid_core.models.capacity import available_bytes, weights_bytes
from hybrid_core.records import WORKLOAD_KINDS


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaves(answer: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def same(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def names_are_usable(entry: ModelEntry, size: str) -> None:
    for text in (entry.name, entry.family, entry.title, entry.description):
        assert text and text == text.strip(), f"{entry!r} has an empty or padded text: {text!r}"
    assert entry.name == entry.name.lower() and " " not in entry.name, f"{entry.name!r} does not fit into a URL"
    assert len(set(entry.sizes)) == len(entry.sizes), f"{entry.name} names a size twice"


def unknown_size_is_refused_by_name(entry: ModelEntry, size: str) -> None:
    for ask in (entry.workloads, entry.task, entry.facts, lambda s: entry.build(s, 0)):
        try:
            ask("enormous")
        except InvalidInput as refusal:
            assert "enormous" in str(refusal) and entry.sizes[0] in str(refusal), f"unhelpful: {refusal}"
        else:
            raise AssertionError(f"{entry.name} accepted the size 'enormous'")


def workloads_are_distinct_and_known(entry: ModelEntry, size: str) -> None:
    workloads = entry.workloads(size)
    assert workloads, f"{entry.name} {size} has no workload"
    assert len({w.name for w in workloads}) == len(workloads), f"{entry.name} {size} names a workload twice"
    for workload in workloads:
        assert workload.kind in WORKLOAD_KINDS and workload.batch >= 1, f"{workload} cannot be run"
        assert (workload.new_tokens > 0) == (workload.kind == "decode"), f"{workload} mixes up decode and the rest"


def skeleton_has_every_parameter_and_no_memory(entry: ModelEntry, size: str) -> None:
    skeleton = entry.skeleton(size)
    assert all(x.is_meta for x in (*skeleton.parameters(), *skeleton.buffers())), f"{entry.name} {size} takes memory"
    counted = sum(p.numel() for p in skeleton.parameters())
    facts = entry.facts(size)
    assert facts["parameters"] == counted, f"facts say {facts['parameters']} parameters, the skeleton has {counted}"
    published = facts["published_parameters"]
    assert published in (None, counted), f"{entry.name} {size}: published {published}, built {counted}"


def sizes_are_what_their_names_promise(entry: ModelEntry, size: str) -> None:
    parameters = entry.facts(size)["parameters"]
    if size == "small":
        assert 30e6 <= parameters <= 120e6, f"{entry.name} small has {parameters:,} parameters, not 30 to 120 million"
        assert not entry.facts(size)["trained"], f"{entry.name} small claims to be trained"
    if size != entry.sizes[0]:
        assert parameters > entry.facts(entry.sizes[0])["parameters"], f"{entry.name} {size} is smaller than the first"


def what_does_not_fit_is_refused_with_the_figures(entry: ModelEntry, size: str) -> None:
    parameters = entry.facts(size)["parameters"]
    if weights_bytes(parameters)["float32"] <= available_bytes():
        return
    before = psutil.Process().memory_info().rss
    try:
        entry.build(size, 0)
    except InvalidInput as refusal:
        assert f"{parameters:,}" in str(refusal) and "GiB" in str(refusal), f"no figures: {refusal}"
        assert psutil.Process().memory_info().rss - before < 64 * 2**20, (
            f"{entry.name} {size} allocated before refusing"
        )
    else:
        raise AssertionError(f"{entry.name} {size} was built without the memory for it")


def build_is_deterministic(entry: ModelEntry, size: str) -> None:
    torch.manual_seed(5)
    first = entry.build(size, 3)
    torch.manual_seed(6)
    second = entry.build(size, 3)
    left, right = first.state_dict(), second.state_dict()
    assert left.keys() == right.keys(), f"{entry.name} {size} builds different modules"
    for name, value in left.items():
        assert torch.equal(value, right[name]), f"{entry.name} {size}: seed 3 gave two different {name}"
        assert value.data_ptr() != right[name].data_ptr(), f"{entry.name} {size}: two builds share {name}"


def seed_matters_unless_trained(entry: ModelEntry, size: str) -> None:
    left, right = entry.build(size, 1).state_dict(), entry.build(size, 2).state_dict()
    equal = all(torch.equal(value, right[name]) for name, value in left.items())
    assert equal == entry.facts(size)["trained"], f"{entry.name} {size}: trained is {not equal}, facts say otherwise"


def build_leaves_the_global_generator_alone(entry: ModelEntry, size: str) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    entry.build(size, 0)
    assert torch.equal(before, torch.get_rng_state()), f"{entry.name} {size}: build moved the global generator"


def build_is_ready_to_measure(entry: ModelEntry, size: str) -> None:
    model = entry.build(size, 0)
    assert not any(m.training for m in model.modules()), f"{entry.name} {size} is not in eval mode"
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        assert value.device.type == "cpu", f"{name} is on {value.device}"
        assert not value.requires_grad, f"{name} wants gradients, so a call would build a graph"
        if value.is_floating_point():
            assert value.dtype is torch.float32, f"{name} is {value.dtype}"
            assert value.isfinite().all(), f"{name} is not finite"


def inputs_are_fresh_and_reproducible(entry: ModelEntry, size: str) -> None:
    for workload in entry.workloads(size):
        source = generator(11)
        first, second = (entry.make_inputs(size, workload, source) for _ in range(2))
        again = entry.make_inputs(size, workload, generator(11))
        assert same(first, again), f"{entry.name} {workload.name}: the same generator gave other inputs"
        assert not same(first, second), f"{entry.name} {workload.name}: two draws gave the same inputs"
        assert all(x.device.type == "cpu" and x.shape[0] == workload.batch for x in first), "wrong batch or device"


def calls_answer_every_workload(entry: ModelEntry, size: str) -> None:
    model = entry.build(size, 0)
    for workload in entry.workloads(size):
        first, second = (entry.make_inputs(size, workload, generator(seed)) for seed in (1, 2))
        kept = tuple(x.clone() for x in first)
        answer = leaves(entry.call(model, workload, first))
        assert answer and all(x.isfinite().all() for x in answer), f"{workload.name} gave no finite tensors"
        assert same(first, kept), f"{workload.name} changed its inputs"
        assert same(answer, leaves(entry.call(model, workload, first))), f"{workload.name}: a second call differs"
        other = leaves(entry.call(model, workload, second))
        shapes = [x.shape for x in answer]
        assert [x.shape for x in other] == shapes, f"{workload.name}: the shape moves with the inputs"
        assert not same(other, answer), f"{workload.name}: the answer does not depend on the inputs"


def calls_answer_once(entry: ModelEntry, size: str) -> None:
    model = entry.build(size, 0)
    for workload in entry.workloads(size):
        answer = leaves(entry.call(model, workload, entry.make_inputs(size, workload, generator(1))))
        assert answer and all(x.isfinite().all() for x in answer), f"{workload.name} gave no finite tensors"


def task_batches_fit_the_model(entry: ModelEntry, size: str) -> None:
    task = entry.task(size)
    assert entry.facts(size)["trained"] or task is None, f"{entry.name} {size}: a task for random weights"
    if task is None:
        return
    model = entry.build(size, 0)
    batches, again = list(task.batches(64)), list(task.batches(64))
    assert batches and sum(len(targets) for _, targets in batches) <= 64, "more rows than asked for"
    assert len({tuple(targets.shape) for _, targets in batches}) == 1, "the batch shape changes"
    assert len({tuple(x.shape for x in inputs) for inputs, _ in batches}) == 1, "the input shape changes"
    for (inputs, targets), (inputs2, targets2) in zip(batches, again, strict=True):
        assert same((*inputs, targets), (*inputs2, targets2)), "the order of the held-out rows is not fixed"
    inputs, targets = batches[0]
    answers = task.answer(model, inputs)
    scores = task.score(answers, targets)
    assert scores.shape == targets.shape[:1] and scores.dtype is torch.float64, f"scores are {scores.shape}"
    assert bool(((scores >= 0) & (scores <= 1)).all()), f"a score is not between 0 and 1: {scores}"
    assert 0 <= task.trivial_score() < 1, f"the trivial score is {task.trivial_score()}"
    rates = task.rates(model)
    assert json.loads(json.dumps(rates, allow_nan=False)) == rates, "rates are not figures"
    if task.has_classes:
        assert targets.dtype is torch.int64, f"targets are {targets.dtype}"
        assert answers.shape[:-1] == targets.shape, f"answers {answers.shape} do not fit targets {targets.shape}"
        assert 0 <= int(targets.min()) and int(targets.max()) < answers.shape[-1], "a target is not a class"


def facts_are_true_and_json(entry: ModelEntry, size: str) -> None:
    facts = entry.facts(size)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts, "facts do not survive JSON"
    counted = sum(p.numel() for p in entry.build(size, 0).parameters())
    assert facts["parameters"] == counted, f"facts say {facts['parameters']} parameters, the model has {counted}"
    assert facts["weights_bytes"] == weights_bytes(counted), f"bytes do not follow: {facts['weights_bytes']}"
    assert facts["limits"] and all(isinstance(line, str) for line in facts["limits"]), "limits are not sentences"
    if facts["trained"]:
        quality = facts["quality"]
        assert quality["trivial"] < quality["low"] <= quality["value"] <= quality["high"], f"not credible: {quality}"
    else:
        assert facts["quality"] is None, "a quality of random weights"


# Every size; they allocate next to nothing.
CARD_CHECKS: tuple[Callable[[ModelEntry, str], None], ...] = (
    names_are_usable,
    unknown_size_is_refused_by_name,
    workloads_are_distinct_and_known,
    skeleton_has_every_parameter_and_no_memory,
    sizes_are_what_their_names_promise,
    what_does_not_fit_is_refused_with_the_figures,
)
# The size that comes first, which runs in a moment.
CHECKS: tuple[Callable[[ModelEntry, str], None], ...] = (
    build_is_deterministic,
    seed_matters_unless_trained,
    build_leaves_the_global_generator_alone,
    build_is_ready_to_measure,
    inputs_are_fresh_and_reproducible,
    calls_answer_every_workload,
    task_batches_fit_the_model,
    facts_are_true_and_json,
)
# Sizes of many millions of parameters: once is enough.
LARGE_CHECKS: tuple[Callable[[ModelEntry, str], None], ...] = (calls_answer_once,)
