"""Hostile and damaged folders are refused with their reason, before anything of them is loaded or run."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hybrid_core.errors import InvalidInput
from hybrid_core.models import capacity
from hybrid_core.models.brought import huggingface
from hybrid_core.models.brought.huggingface import HuggingFaceFolder

Edit = Callable[..., Path]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CANARY = "import pathlib; pathlib.Path({!r}).write_text('run')"


def refused(folder: Path, *told: str) -> None:
    """Opening, or at the latest describing, must refuse with a sentence that has all of `told`."""
    with pytest.raises(InvalidInput) as refusal:
        HuggingFaceFolder(str(folder)).describe()
    assert all(word in str(refusal.value) for word in told), str(refusal.value)
    assert len(str(refusal.value)) < 700 and "\n" not in str(refusal.value)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    tensors = change({name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()})
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("auto_map", {"AutoModel": "modeling_x.X"}, "no code from a folder is ever run"),
        ("trust_remote_code", True, "no code from a folder"),
        ("quantization_config", {"quant_method": "fp8"}, "quantized weights are not read"),
        ("_attn_implementation_internal", "someone/kernel", "private key"),
        ("_attn_implementation", "someone/kernel", "private key"),
        ("attn_implementation", "someone/kernel", "eager attention"),
        ("custom_pipelines", {}, "not known to LlamaConfig"),
        ("num_experts", 4, "not known to LlamaConfig"),
    ],
)
def test_a_key_that_is_not_on_the_list_is_refused_by_name(edit_config: Edit, key: str, value: Any, told: str) -> None:
    refused(edit_config(**{key: value}), repr(key), told)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 2**60),
        ("hidden_size", -1),
        ("hidden_size", "32"),
        ("hidden_size", True),
        ("hidden_size", None),
        ("num_hidden_layers", 10**6),
        ("num_hidden_layers", 2.0),
        ("vocab_size", 10**12),
        ("rms_norm_eps", "0"),
        ("rms_norm_eps", 1e400),
        ("rope_theta", -5.0),
        ("hidden_act", "os.system"),
        ("hidden_act", ["silu"]),
        ("tie_word_embeddings", "yes"),
        ("rope_parameters", {"rope_type": "evil"}),
        ("rope_parameters", {"code": 1}),
        ("rope_parameters", {"long_factor": [1.0] * 5_000}),
        ("rope_scaling", [1]),
        ("is_decoder", True),
        ("chunk_size_feed_forward", 4),
    ],
)
def test_a_value_of_another_type_or_beyond_its_bounds_is_refused(edit_config: Edit, key: str, value: Any) -> None:
    refused(edit_config(**{key: value}), "config.json")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "gpt_bigcode"}, "'gpt_bigcode' is not supported"),
        ({"model_type": None}, "None is not supported"),
        ({"model_type": "bert"}, "BertModel"),
        ({"architectures": ["AutoModel"]}, "'AutoModel' is not supported"),
        ({"architectures": ["LlamaForCausalLM", "BertModel"]}, "LlamaForCausalLM"),
        ({"architectures": "LlamaForCausalLM"}, "must be a list"),
        ({"architectures": None}, "must be a list"),
    ],
)
def test_an_architecture_outside_the_table_is_refused(edit_config: Edit, change: dict[str, Any], told: str) -> None:
    refused(edit_config(**change), told)


def test_a_config_with_a_key_twice_is_refused(folder: Path) -> None:
    text = (folder / "config.json").read_text().rstrip()
    (folder / "config.json").write_text(text[:-1] + ', "hidden_size": 64}')
    refused(folder, "'hidden_size' twice")


def test_a_config_too_large_missing_or_no_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(" " * 2**21)
    refused(folder, "at most 1,048,576")
    (folder / "config.json").write_text("{")
    refused(folder, "JSON")
    (folder / "config.json").unlink()
    refused(folder, "no config.json")


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "weights.pt",
        "weights.PTH",
        "data.pkl",
        "tf_model.h5",
        "model.ckpt",
        "flax.msgpack",
        "array.npy",
        "deep/down/optimizer.pt",
    ],
)
def test_a_pickle_anywhere_in_the_folder_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"\x80\x04.")
    refused(folder, Path(name).name, "remove it")


@pytest.mark.parametrize("name", ["modeling_llama.py", "kernel.so", "sub/__init__.PY", "cached.pyc"])
def test_a_program_anywhere_in_the_folder_is_refused_and_not_run(folder: Path, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(CANARY.format(str(canary)))
    refused(folder, Path(name).name, "program")
    assert not canary.exists()


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (folder / "README.md").symlink_to(tmp_path / "secret")
    refused(folder, "README.md", "leads out of the folder")


def test_links_of_weights_folders_and_loops_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).rename(tmp_path / WEIGHTS)
    (folder / WEIGHTS).symlink_to(tmp_path / WEIGHTS)
    refused(folder, WEIGHTS, "leads out")
    (folder / WEIGHTS).unlink()
    (tmp_path / WEIGHTS).rename(folder / WEIGHTS)
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    refused(folder, "'up'", "leads out")
    (folder / "up").unlink()
    (folder / "loop").symlink_to(folder / "loop")
    refused(folder, "'loop'", "leads nowhere")


def test_a_pipe_in_the_folder_is_refused_without_opening_it(folder: Path) -> None:
    os.mkfifo(folder / "vocab.txt")
    refused(folder, "vocab.txt", "neither a file nor a folder")


def test_too_many_entries_and_too_deep_folders_are_refused(folder: Path) -> None:
    deep = folder
    for _ in range(20):
        deep = deep / "d"
    deep.mkdir(parents=True)
    refused(folder, "folders deep")
    for number in range(5_001):
        (folder / f"{number:05d}.txt").touch()
    (folder / "d").rename(folder.parent / "d")
    refused(folder, "more than 5,000 entries")


@pytest.mark.parametrize("path", ["", "relative/model", "/does/not/exist", "/tmp/\0x", 7, "/" + "a" * 5_000])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises(InvalidInput, match="path"):
        HuggingFaceFolder(path)


def test_a_header_of_two_to_the_sixty_is_refused(folder: Path) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**60) + raw[8:])
    refused(folder, WEIGHTS, "1,152,921,504,606,846,976")


def test_a_truncated_file_is_refused(folder: Path) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(raw[:-100])
    refused(folder, WEIGHTS, "bring the whole file")


def test_tensors_missing_unexpected_of_another_shape_or_dtype_are_refused(folder: Path) -> None:
    norm = "model.norm.weight"
    original = (folder / WEIGHTS).read_bytes()
    for change, told in (
        (lambda t: {n: x for n, x in t.items() if n != norm}, f"no file holds '{norm}'"),
        (lambda t: {**t, "model.extra.weight": torch.zeros(2)}, "'model.extra.weight'"),
        (lambda t: {**t, norm: torch.zeros(33)}, "shape [33]"),
        (lambda t: {**t, norm: torch.zeros(32, dtype=torch.int8)}, "dtype I8"),
        (lambda t: {**t, norm: torch.zeros(32, dtype=torch.float64)}, "dtype F64"),
    ):
        (folder / WEIGHTS).write_bytes(original)
        change_weights(folder, change)
        refused(folder, told)


def split(folder: Path, promised: dict[str, str] | None = None) -> dict[str, str]:
    """Spread the weights over two files with an index; `promised` changes what the index says."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    (folder / WEIGHTS).unlink()
    index = {name: file for file, held in parts.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"weight_map": {**index, **(promised or {})}}))
    return index


def test_the_same_tensor_in_two_files_is_refused(folder: Path) -> None:
    split(folder)
    tensors = load_file(folder / "model-2.safetensors")
    first = next(iter(load_file(folder / "model-1.safetensors")))
    save_file({**tensors, first: torch.zeros(3)}, folder / "model-2.safetensors")
    refused(folder, first, "model-1.safetensors", "model-2.safetensors")


@pytest.mark.parametrize(
    "target",
    ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..\\x.safetensors", "weights.bin", 7, "", ".."],
)
def test_an_index_that_leads_elsewhere_is_refused(folder: Path, target: Any) -> None:
    split(folder, {"model.norm.weight": target})
    refused(folder, INDEX, "model.norm.weight")


def test_an_index_that_does_not_fit_its_files_is_refused(folder: Path) -> None:
    index = split(folder)
    name, file = next(iter(index.items()))
    other = {"model-1.safetensors": "model-2.safetensors", "model-2.safetensors": "model-1.safetensors"}[file]
    for changed, told in (
        ({**index, name: other}, "does not say so"),
        ({**index, "ghost": file}, "'ghost'"),
        ({n: f for n, f in index.items() if n != name}, "does not say so"),
        ({**index, "ghost": "missing.safetensors"}, "missing"),
    ):
        (folder / INDEX).write_text(json.dumps({"weight_map": changed}))
        refused(folder, told)


def test_two_files_without_an_index_may_not_repeat_a_tensor(folder: Path) -> None:
    save_file({"model.norm.weight": torch.zeros(32)}, folder / "more.safetensors")
    refused(folder, "model.norm.weight", "more.safetensors")


def test_a_model_larger_than_memory_is_refused_before_it_is_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "available_bytes", lambda: 50_000)
    source = HuggingFaceFolder(str(folder))
    monkeypatch.setattr(HuggingFaceFolder, "_make", lambda self: pytest.fail("it was built"))
    for build in (source.describe, source.build):
        with pytest.raises(InvalidInput, match="of memory are free"):
            build()


def test_weights_that_changed_since_they_were_checked_are_refused(folder: Path) -> None:
    source = HuggingFaceFolder(str(folder))
    change_weights(folder, lambda t: {name: tensor + 1 for name, tensor in t.items()})
    with pytest.raises(InvalidInput, match="changed since it was brought in"):
        source.build()


def test_without_transformers_one_sentence_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InvalidInput, match="transformers is not installed; run pip install -r requirements-hf.txt"):
        HuggingFaceFolder(str(folder)).describe()


def test_loading_never_goes_through_from_pretrained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    monkeypatch.setattr(
        transformers.PreTrainedModel, "from_pretrained", lambda *a, **k: pytest.fail("from_pretrained was called")
    )
    assert huggingface.HuggingFaceFolder(str(folder)).build() is not None
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    "change", [{"vocab_size": 16_000_000}, {"hidden_size": 1_000_000}, {"intermediate_size": 999_999}]
)
def test_a_config_that_asks_for_more_than_the_files_hold_allocates_nothing(
    edit_config: Edit, change: dict[str, Any]
) -> None:
    source = HuggingFaceFolder(str(edit_config(**change)))
    with pytest.raises(InvalidInput, match="where config.json needs"):
        source.build()
