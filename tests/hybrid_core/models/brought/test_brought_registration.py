"""A registration brings the same model back, keeps the promises of a registry entry, and notices every change."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models import capacity
from hybrid_core.models.base import ModelEntry
from hybrid_core.models.brought import shards
from hybrid_core.models.brought.inspection import inspect
from hybrid_core.models.brought.registration import Registration, open_entry
from hybrid_core.models.registry import find_entry
from tests.contracts.model_contract import CHECKS, seed_matters_unless_trained, sizes_are_what_their_names_promise

Saved = Callable[[str], Path]
# A brought model's weights are what they are: no seed changes them, with or without labels.
KEPT = [check for check in CHECKS if check not in (seed_matters_unless_trained, sizes_are_what_their_names_promise)]


def bring(path: Path, name: str = "mine", kind: str = "huggingface", **more: Any) -> Registration:
    return inspect({"kind": kind, "path": str(path), "name": name, **more}).registration


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    network = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    torch.export.save(torch.export.export(network, (torch.randn(4, 6),)), path)
    return path


@pytest.mark.parametrize("check", KEPT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ["llama", "bert_classes", "convnext", "program"])
def test_a_brought_model_keeps_the_promises_of_an_entry(
    saved: Saved, program: Path, name: str, check: Callable[[ModelEntry, str], None], opened: dict[str, ModelEntry]
) -> None:
    if name not in opened:
        is_program = name == "program"
        registration = bring(program if is_program else saved(name), kind="exported" if is_program else "huggingface")
        opened[name] = open_entry(registration)
    check(opened[name], "own")


@pytest.fixture(scope="session")
def opened() -> dict[str, ModelEntry]:
    return {}


def test_the_text_of_a_registration_brings_the_same_model_back(saved: Saved) -> None:
    registration = bring(saved("qwen2"), "my-qwen")
    again = Registration.from_text(registration.to_text())
    assert again == registration
    entry = find_entry("my-qwen", registration.to_text())
    assert isinstance(entry, ModelEntry) and entry.name == "my-qwen" and entry.family == "qwen2"
    facts = entry.facts("own")
    assert facts["kind"] == "huggingface" and facts["path"] == str(saved("qwen2"))
    assert facts["trained"] is False and facts["quality"] is None
    assert set(facts["seconds_per_call"]) == {"prefill", "decode"}


def test_a_labelled_file_gives_a_quality_with_its_interval(saved: Saved, tmp_path: Path) -> None:
    inputs = torch.randint(96, (64, 10), generator=torch.Generator().manual_seed(0))
    save_file({"inputs": inputs, "labels": torch.arange(64) % 5}, tmp_path / "rows.safetensors")
    registration = bring(saved("bert_classes"), labels=str(tmp_path / "rows.safetensors"))
    entry = open_entry(registration)
    quality = entry.facts("own")["quality"]
    assert quality["samples"] == 64 and quality["low"] <= quality["value"] <= quality["high"]
    assert quality["trivial"] == pytest.approx(13 / 64) and entry.task("own") is not None
    save_file({"inputs": inputs, "labels": torch.arange(64) % 4}, tmp_path / "rows.safetensors")
    with pytest.raises(InvalidInput, match=r"rows\.safetensors' changed since it was brought in"):
        entry.task("own")


def test_labels_of_a_program_also_show_the_range_of_its_numbers(tmp_path: Path) -> None:
    class Weigh(nn.Module):
        def forward(self, counts: torch.Tensor) -> torch.Tensor:
            return counts.float() @ torch.eye(3)

    torch.export.save(torch.export.export(Weigh(), (torch.ones(2, 3).long(),)), tmp_path / "w.pt2")
    with pytest.raises(InvalidInput, match="give a labelled safetensors file"):
        bring(tmp_path / "w.pt2", kind="exported")
    inputs = torch.randint(5, 9, (32, 3), generator=torch.Generator().manual_seed(0))
    save_file({"inputs": inputs, "labels": inputs.argmax(1)}, tmp_path / "rows.safetensors")
    registration = bring(tmp_path / "w.pt2", kind="exported", labels=str(tmp_path / "rows.safetensors"))
    entry = open_entry(registration)
    drawn = entry.make_inputs("own", entry.workloads("own")[0], torch.Generator().manual_seed(1))[0]
    assert int(drawn.min()) >= 5 and int(drawn.max()) <= 8
    assert entry.facts("own")["quality"]["value"] == 1.0


@pytest.mark.parametrize("part", ["config", "weights"])
def test_a_changed_folder_is_refused(folder: Path, part: str) -> None:
    registration = bring(folder)
    assert open_entry(registration).name == "mine"
    if part == "config":
        (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    else:
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, "model.norm.weight": torch.zeros(32)}, folder / "model.safetensors")
    with pytest.raises(InvalidInput, match="changed since it was brought in .* bring it in again"):
        open_entry(registration)


def test_beyond_the_limit_only_headers_and_sizes_are_hashed_and_the_card_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "WHOLE_DIGEST_BYTES", 1_000)
    registration = bring(folder)
    assert open_entry(registration).facts("own")["digest_of"] == "config.json, headers and sizes"
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    assert open_entry(registration).name == "mine"
    raw[8 + raw[8:].index(b"model.norm")] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(InvalidInput):
        open_entry(registration)


def test_a_model_that_fits_once_but_not_twice_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 4 * sum(t.numel() for t in load_file(folder / "model.safetensors").values())
    monkeypatch.setattr(capacity, "available_bytes", lambda: round(needed * 1.5))
    with pytest.raises(InvalidInput, match="2 copies of LlamaForCausalLM"):
        bring(folder)


def test_a_model_that_gives_nan_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.norm.weight": torch.full((32,), torch.nan)}, folder / "model.safetensors")
    with pytest.raises(InvalidInput, match="holds NaN or infinity"):
        bring(folder)


@pytest.mark.parametrize(
    "name", ["", "Llama", "a b", "../x", "a/b", "x" * 61, "ä", "-x", "llama", "convnet", 7, None, "a\n", "<b>"]
)
def test_a_name_that_is_not_usable_or_taken_is_refused(folder: Path, name: Any) -> None:
    with pytest.raises(InvalidInput, match="name="):
        inspect({"kind": "huggingface", "path": str(folder), "name": name})


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"kind": "huggingface", "name": "a"},
        {"kind": "pickle", "path": "/tmp", "name": "a"},
        {"kind": ["exported"], "path": "/tmp", "name": "a"},
        {"kind": "exported", "path": 7, "name": "a"},
        {"kind": "exported", "path": "/tmp", "name": "a", "labels": ["x"]},
        {"kind": "factory", "path": "json:loads", "name": "a", "allowed_packages": "json"},
        {"kind": "factory", "path": "json:loads", "name": "a", "allowed_packages": ["json"], "allow_code": False},
        {"kind": "factory", "path": "json:loads", "name": "a", "allowed_packages": []},
        {"kind": "exported", "path": "/tmp", "name": "a", "trust": True},
    ],
)
def test_a_request_of_another_form_is_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        inspect(request_)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"kind": "huggingface"}',
        "{" * 5_000,
        json.dumps({**dataclasses.asdict(Registration("exported", "a", "/x", "0" * 64)), "kind": "pickle"}),
        json.dumps({**dataclasses.asdict(Registration("exported", "a", "/x", "0" * 64)), "sha256": "../.."}),
        json.dumps({**dataclasses.asdict(Registration("exported", "a", "/x", "0" * 64)), "details": []}),
        json.dumps({**dataclasses.asdict(Registration("exported", "a", "/x", "0" * 64)), "extra": 1}),
    ],
)
def test_a_text_that_is_no_registration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Registration.from_text(text)
