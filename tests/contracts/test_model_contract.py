"""Every registry entry keeps the contract, and each check of the kit fails on an entry that breaks it."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.registry import ENTRIES, get_all_models, get_entry
from hybrid_core.models.sequential import SequentialEntry
from hybrid_core.records import Workload


def load_kit() -> Any:
    # pytest's importmode=importlib does not put test folders on the path.
    spec = importlib.util.spec_from_file_location("model_contract", Path(__file__).with_name("model_contract.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_contract"] = module
    spec.loader.exec_module(module)
    return module


kit = load_kit()
CARDS = [(entry, size) for entry in ENTRIES for size in entry.sizes]
LARGE = [(entry, size) for entry, size in CARDS if size == "small"]


@pytest.mark.parametrize(("entry", "size"), CARDS, ids=[f"{e.name}-{s}" for e, s in CARDS])
@pytest.mark.parametrize("check", kit.CARD_CHECKS, ids=lambda check: check.__name__)
def test_every_size_keeps(check, entry, size):
    check(entry, size)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
@pytest.mark.parametrize("check", kit.CHECKS, ids=lambda check: check.__name__)
def test_every_entry_keeps(check, entry):
    check(entry, entry.sizes[0])


@pytest.mark.parametrize(("entry", "size"), LARGE, ids=[f"{e.name}-{s}" for e, s in LARGE])
@pytest.mark.parametrize("check", kit.LARGE_CHECKS, ids=lambda check: check.__name__)
def test_every_large_size_keeps(check, entry, size):
    check(entry, size)


class TextIsPadded(SequentialEntry):
    title = " Padded"


class TakesAnySize(SequentialEntry):
    def workloads(self, size: str) -> tuple[Workload, ...]:
        return (Workload("forward", "forward", batch=64),)


class NamesAWorkloadTwice(SequentialEntry):
    def workloads(self, size: str) -> tuple[Workload, ...]:
        return super().workloads(size) * 2


class IgnoresTheSeed(SequentialEntry):
    def build(self, size: str, seed: int) -> nn.Module:
        super().build(size, seed)
        return nn.Linear(128, 64).eval().requires_grad_(False)


class ClaimsToBeTrained(SequentialEntry):
    def facts(self, size: str) -> dict[str, Any]:
        return {**super().facts(size), "trained": True}


class MovesTheGlobalGenerator(SequentialEntry):
    def build(self, size: str, seed: int) -> nn.Module:
        torch.rand(1)
        return super().build(size, seed)


class StaysInTraining(SequentialEntry):
    def build(self, size: str, seed: int) -> nn.Module:
        return super().build(size, seed).train()


class RepeatsItsInputs(SequentialEntry):
    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.ones(workload.batch, 128),)


class AnswersAConstant(SequentialEntry):
    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor:
        return torch.zeros(workload.batch, 64)


class JudgesRandomWeights(SequentialEntry):
    def task(self, size: str) -> Any:
        return get_entry("convnet").task("tiny")


class MiscountsParameters(SequentialEntry):
    def facts(self, size: str) -> dict[str, Any]:
        return {**super().facts(size), "parameters": 1}


class SkeletonTakesMemory(SequentialEntry):
    def skeleton(self, size: str) -> nn.Module:
        return self.build(size, 0)


class SmallIsNotSmall(SequentialEntry):
    sizes = ("small",)

    def facts(self, size: str) -> dict[str, Any]:
        return {**SequentialEntry().facts("small"), "parameters": 10**9}


class BuildsWhatDoesNotFit(SequentialEntry):
    def facts(self, size: str) -> dict[str, Any]:
        return {**super().facts(size), "parameters": 10**15}


class AnswersNaN(SequentialEntry):
    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor:
        return torch.full((workload.batch, 64), torch.nan)


BROKEN = {
    "names_are_usable": TextIsPadded,
    "unknown_size_is_refused_by_name": TakesAnySize,
    "workloads_are_distinct_and_known": NamesAWorkloadTwice,
    "build_is_deterministic": IgnoresTheSeed,
    "seed_matters_unless_trained": ClaimsToBeTrained,
    "build_leaves_the_global_generator_alone": MovesTheGlobalGenerator,
    "build_is_ready_to_measure": StaysInTraining,
    "inputs_are_fresh_and_reproducible": RepeatsItsInputs,
    "calls_answer_every_workload": AnswersAConstant,
    "task_batches_fit_the_model": JudgesRandomWeights,
    "facts_are_true_and_json": MiscountsParameters,
    "skeleton_has_every_parameter_and_no_memory": SkeletonTakesMemory,
    "sizes_are_what_their_names_promise": SmallIsNotSmall,
    "what_does_not_fit_is_refused_with_the_figures": BuildsWhatDoesNotFit,
    "calls_answer_once": AnswersNaN,
}


@pytest.mark.parametrize("check", (*kit.CARD_CHECKS, *kit.CHECKS, *kit.LARGE_CHECKS), ids=lambda check: check.__name__)
def test_kit_fails_on_an_entry_that_breaks(check):
    with pytest.raises(AssertionError):
        entry = BROKEN[check.__name__]()
        check(entry, entry.sizes[0])


def test_unknown_model_is_refused_with_the_known_names():
    with pytest.raises(InvalidInput, match="'gpt-9' is unknown; choose one of llama, "):
        get_entry("gpt-9")


def test_every_entry_file_is_in_the_registry():
    folder = Path(sys.modules["hybrid_core.models.registry"].__file__).parent
    declaring = {p.stem for p in folder.glob("*.py") if re.search(r"^class \w+Entry\(", p.read_text(), re.MULTILINE)}
    assert declaring - {"base", "language"} == {type(entry).__module__.rpartition(".")[2] for entry in ENTRIES}


def test_every_family_of_the_document_is_there():
    assert {entry.name for entry in ENTRIES} == {
        "llama", "deepseek", "qwen", "qwq", "claude", "viral_clipper", "brandkit", "ia_generative", "sequential",
        "convnet", "vit",
    }  # fmt: skip


def test_all_models_build_their_default_size():
    built = {name: build() for name, build in get_all_models().items()}
    assert list(built) == [entry.name for entry in ENTRIES]
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in built.items()}
    assert (counts["llama"], counts["convnet"], counts["sequential"]) == (1_672_896, 169_834, 49_984)
