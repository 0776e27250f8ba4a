"""A training of seconds: it learns, it writes what it says, and it goes on where it stopped."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from types import SimpleNamespace

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.models.checkpoints import load_weights, read_facts, read_tensors, save_weights
from hybrid_core.models.convnet import SHAPES as CONVNET_SHAPES
from hybrid_core.models.convnet import ConvNet
from hybrid_core.models.language import DecoderShape, DenseDecoder
from hybrid_core.models.llama import SHAPES, LlamaEntry
from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.models.registry import ENTRIES
from hybrid_core.models.train import TRAININGS, main
from hybrid_core.models.training import base, language
from hybrid_core.models.training import convnet as convnet_training
from hybrid_core.models.training.base import Training, TrainingOptions, learning_rate_share, make_optimizers
from hybrid_core.models.training.language import (
    FusedCausalAttention,
    next_byte_loss,
    replace_attention,
    start_training,
    train_dense,
    window_length,
)

SMALLEST = DecoderShape(dim=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=24)
TEXT = torch.frombuffer(bytearray(b"the quick brown fox jumps over the lazy dog. " * 200), dtype=torch.uint8)


def tick(monkeypatch, module, seconds: float) -> None:
    """From now on the module sees a clock that moves by this much each time it is read, however busy the machine is."""
    readings = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(readings) * seconds))


def start(seed: int = 0) -> Training:
    torch.manual_seed(seed)
    return start_training(DenseDecoder(SMALLEST), 3e-3, seed)


def steps(run: Training, count: int) -> list[float]:
    return [run.step(next_byte_loss(run.model, TEXT, 0.5, run.generator), 0.02) for _ in range(count)]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(language, "TOKENS_PER_STEP", 256)
    monkeypatch.setattr(language, "WINDOWS", ((1.0, 32),))


def test_training_learns_a_repeated_sentence():
    losses = steps(start(), 60)
    assert losses[-1] < losses[0] / 2


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    whole = start()
    steps(whole, 6)
    first = start()
    steps(first, 3)
    first.save(tmp_path / "state.safetensors")
    resumed = start(seed=9)
    resumed.load(tmp_path / "state.safetensors")
    assert resumed.steps == 3
    steps(resumed, 3)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_fused_attention_of_the_training_equals_the_plain_one():
    torch.manual_seed(0)
    model = DenseDecoder(SMALLEST)
    tokens = torch.randint(256, (2, 20))
    plain = model(tokens)
    replace_attention(model, FusedCausalAttention)
    assert not any(isinstance(m, EagerAttention) for m in model.modules())
    torch.testing.assert_close(model(tokens), plain, atol=1e-6, rtol=1e-5)


def test_every_parameter_has_exactly_one_optimizer():
    model = DenseDecoder(SMALLEST)
    inner, outer = list(model.layers.parameters()), [*model.embedding.parameters(), *model.norm.parameters()]
    matrices, rest = [p for p in inner if p.ndim == 2], [p for p in inner if p.ndim < 2]
    rest += [*outer, *model.head.parameters()]
    for muon in (True, False):
        optimizers = make_optimizers(matrices, rest, 1e-3, muon=muon)
        held = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_learning_rate_rises_then_falls_to_its_floor():
    shares = [learning_rate_share(i / 1000) for i in range(1001)]
    top = shares.index(max(shares))
    assert max(shares) == pytest.approx(1.0)
    assert top == 20
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert shares[-1] == pytest.approx(0.02)


def test_windows_grow_with_the_time_spent(monkeypatch):
    monkeypatch.undo()
    assert [window_length(share) for share in (0.0, 0.29, 0.31, 0.9, 1.0, 1.2)] == [128, 128, 256, 512, 512, 512]


def test_stored_weights_are_the_nearest_float16_and_their_facts_come_back(tmp_path):
    model = DenseDecoder(SMALLEST)
    save_weights(model, tmp_path / "weights.safetensors", {"steps": 3, "quality": {"value": 0.5}})
    assert read_facts(tmp_path / "weights.safetensors") == {"steps": 3, "quality": {"value": 0.5}}
    assert all(t.dtype is torch.float16 for t in read_tensors(tmp_path / "weights.safetensors").values())
    again = DenseDecoder(SMALLEST)
    load_weights(again, tmp_path / "weights.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.half().float())
    assert not list(tmp_path.glob("*.partial"))


def test_missing_checkpoint_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(InvalidInput, match="is missing; restore it or run 'python -m hybrid_core.models.train llama'"):
        load_weights(DenseDecoder(SMALLEST), tmp_path / "llama-tiny.safetensors")


def test_a_training_ends_on_time_saves_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setitem(SHAPES, "tiny", SMALLEST)
    tick(monkeypatch, base, 0.25)
    options = TrainingOptions(
        minutes=0.05,
        compiled=False,
        save_every_s=1.0,
        output=tmp_path / "weights.safetensors",
        state=tmp_path / "state.safetensors",
    )
    said: list[str] = []
    first = train_dense(LlamaEntry(), options, say=said.append)
    assert (tmp_path / "state.safetensors").is_file()
    longer = dataclasses.replace(options, minutes=0.1, resume=True)
    second = train_dense(LlamaEntry(), longer, say=said.append)
    assert "resumed after 3 s and 12 steps" in said
    assert "95 %" in said[-1] and "ignores the input 26.50%" in said[-1]
    assert (first["steps"], second["steps"]) == (12, 24)
    assert read_facts(options.output) == second


def test_every_entry_with_a_checkpoint_has_a_training_that_the_command_knows():
    trained = {entry.name for entry in ENTRIES if entry.facts("tiny")["trained"]}
    assert trained == set(TRAININGS)
    for module in TRAININGS.values():
        training = importlib.import_module(f"hybrid_core.models.training.{module}")
        assert training.DEFAULT_MINUTES > 0
        assert callable(training.train)


def test_convnet_command_trains_and_writes_a_checkpoint_that_loads(tmp_path, monkeypatch):
    tick(monkeypatch, convnet_training, 1.0)
    output = tmp_path / "convnet.safetensors"
    main(["convnet", "--minutes", "0.05", "--output", str(output)])
    facts = read_facts(output)
    assert facts["epochs"] == 3
    assert facts["quality"]["low"] > facts["quality"]["trivial"]
    load_weights(ConvNet(CONVNET_SHAPES["tiny"]), output)
