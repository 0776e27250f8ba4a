"""A folder that `transformers` saved is accepted as it is and computes what `transformers` computes with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hybrid_core.application import apply_recipe
from hybrid_core.models.brought.families import FAMILIES
from hybrid_core.models.brought.huggingface import HuggingFaceFolder
from hybrid_core.models.brought.transformers_library import check_version
from hybrid_core.models.brought.workload_sizes import flops_per_token
from hybrid_core.models.brought.written_out_attention import WrittenOutAttention
from hybrid_core.records import Workload
from hybrid_core.strategies.pooling.static_cache import StaticCache
from tests.hybrid_core.models.brought.saved_models import MODELS, save_model

Saved = Callable[[str], Path]
DECODERS = [name for name, (architecture, _) in MODELS.items() if architecture.endswith(("CausalLM", "LMHeadModel"))]


def reference(folder: Path) -> nn.Module:
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    model_class = getattr(transformers, architecture)
    model: nn.Module = model_class.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    return model


def answer(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        output: Any = model(inputs)
    found: Tensor = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return found


def inputs_of(source: HuggingFaceFolder, seed: int = 0) -> Tensor:
    if source.config.family.reads == "image":
        workload = Workload("forward", "forward", batch=2)
    else:
        workload = Workload("forward", "forward", batch=2, length=20)
    return source.make_inputs(workload, torch.Generator().manual_seed(seed))[0]


def widest(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape
    return float((left - right).abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_the_outputs_are_those_of_from_pretrained(saved: Saved, name: str) -> None:
    source = HuggingFaceFolder(str(saved(name)))
    inputs = inputs_of(source)
    with torch.no_grad():
        got = source.build()(inputs)
    expected = answer(reference(saved(name)), inputs)
    assert widest(got, expected) <= 1e-5
    assert float(expected.std()) > 1e-4


@pytest.mark.parametrize("name", DECODERS)
def test_decoding_through_our_caches_gives_the_logits_of_the_whole_text(saved: Saved, name: str) -> None:
    source = HuggingFaceFolder(str(saved(name)))
    model: Any = source.build()
    context, new = source.make_inputs(
        Workload("decode", "decode", batch=2, length=9, new_tokens=4), torch.Generator().manual_seed(3)
    )
    whole = answer(reference(saved(name)), torch.cat([context, new], dim=1))[:, 9:]
    with torch.no_grad():
        grown = source.call(model, Workload("decode", "decode", 2, 9, 4), (context, new))
        model.cache_factory = lambda batch, length: StaticCache(batch, length, layers=model.layer_count)
        reserved = source.call(model, Workload("decode", "decode", 2, 9, 4), (context, new))
    assert widest(grown, whole) <= 1e-5
    assert widest(reserved, whole) <= 1e-5


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("resnet", "convnext")])
def test_every_attention_is_a_module_that_a_strategy_can_replace(saved: Saved, name: str) -> None:
    source = HuggingFaceFolder(str(saved(name)))
    model, called = source.build(), []
    for module in model.modules():
        if isinstance(module, WrittenOutAttention):
            module.register_forward_hook(lambda module, inputs, output: called.append(module))
    with torch.no_grad():
        model(inputs_of(source))
    assert len(called) == 2, "two layers, each called once"


def test_fused_attention_replaces_it_with_equal_answers(saved: Saved) -> None:
    source = HuggingFaceFolder(str(saved("bert")))
    model, inputs = source.build(), inputs_of(source)
    with torch.no_grad():
        fused = apply_recipe(model, {"attention_fusion": "sdpa"}, (inputs,))
        assert widest(fused(inputs), model(inputs)) <= 1e-5


def test_every_family_of_the_table_is_tried_here() -> None:
    tried = {getattr(transformers, architecture).config_class.model_type for architecture, _ in MODELS.values()}
    assert tried == set(FAMILIES)


def test_every_class_of_the_table_exists_and_belongs_to_its_configuration() -> None:
    for model_type, family in FAMILIES.items():
        for architecture in family.architectures:
            config_class = getattr(transformers, architecture).config_class
            assert config_class.__name__ == family.config_class
            assert config_class.model_type == model_type


def test_weights_in_several_files_and_in_half_precision_are_widened_to_float32(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = transformers.LlamaConfig(**MODELS["llama"][1])
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    model.save_pretrained(tmp_path / "m", max_shard_size="20KB")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 2
    source = HuggingFaceFolder(str(tmp_path / "m"))
    built, tokens = source.build(), inputs_of(source)
    assert {p.dtype for p in built.parameters()} == {torch.float32}
    with torch.no_grad():
        assert widest(built(tokens), answer(reference(tmp_path / "m"), tokens)) <= 1e-5


def test_names_of_earlier_versions_are_understood(tmp_path: Path) -> None:
    old = save_model("bert_mask", tmp_path / "old")
    tensors = load_file(old / "model.safetensors")
    renamed = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    save_file({**renamed, "bert.embeddings.position_ids": torch.arange(40)[None]}, old / "model.safetensors")
    source = HuggingFaceFolder(str(old))
    with torch.no_grad():
        got = source.build()(inputs_of(source))
    save_file(tensors, old / "model.safetensors")
    assert widest(got, answer(reference(old), inputs_of(source))) <= 1e-5


def test_an_old_config_with_its_own_path_and_rope_keys_is_accepted(edit_config: Callable[..., Path]) -> None:
    folder = edit_config(_name_or_path="meta-llama/x", torch_dtype="float32", rope_theta=777.0, rope_scaling=None)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"], config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    source = HuggingFaceFolder(str(folder))
    with torch.no_grad():
        got = source.build()(inputs_of(source))
    assert widest(got, answer(reference(folder), inputs_of(source))) <= 1e-5


def test_building_and_describing_leave_the_global_generator_alone(saved: Saved) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    source = HuggingFaceFolder(str(saved("llama")))
    source.describe()
    source.build()
    assert torch.equal(before, torch.get_rng_state())


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "blob.data")
    (folder / "model.safetensors").symlink_to(folder / "blob.data")
    source = HuggingFaceFolder(str(folder))
    assert source.shards.elements == sum(p.numel() for p in source.build().parameters())


def test_work_is_counted_from_the_matrices_a_token_meets(saved: Saved) -> None:
    source = HuggingFaceFolder(str(saved("llama")))
    per_layer = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48
    assert flops_per_token(source.skeleton(), source.config) == 2 * (2 * per_layer + 32 * 96)


def test_workloads_fit_the_length_the_model_knows(saved: Saved) -> None:
    for name in DECODERS:
        details = HuggingFaceFolder(str(saved(name))).describe()
        for workload in details["workloads"]:
            assert 1 <= workload["length"] + workload["new_tokens"] <= details["card"]["max_length"]


def test_roberta_leaves_room_for_the_padding_position(saved: Saved) -> None:
    details = HuggingFaceFolder(str(saved("roberta"))).describe()
    assert details["card"]["max_length"] == 40 - 1 - 1


@pytest.mark.parametrize("version", ["4.57.1", "5.2.9", "6.0.0", "unknown"])
def test_a_version_with_known_faults_is_refused(version: str) -> None:
    with pytest.raises(Exception, match=r"5\.3 or newer below 6"):
        check_version(version)


def test_a_copy_elsewhere_has_the_same_digest(saved: Saved, tmp_path: Path) -> None:
    shutil.copytree(saved("llama"), tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").write_text("{}")
    assert HuggingFaceFolder(str(tmp_path / "copy")).sha256 == HuggingFaceFolder(str(saved("llama"))).sha256
