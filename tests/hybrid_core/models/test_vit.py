"""The vision transformer against the class of transformers, its counts, its checkpoint and what it is trained on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from hybrid_core.models.parts.blocks import EagerAttention
from hybrid_core.models.quality import task_quality
from hybrid_core.models.tasks.digits import DigitsTask
from hybrid_core.models.training.vit import changed
from hybrid_core.models.vit import SHAPES, VisionShape, VisionTransformer, VitEntry

TOLERANCE = 1e-4
SHAPE = VisionShape(image=24, patch=4, channels=3, dim=48, layers=3, heads=6, hidden=80, classes=17)
THEIR_NAMES = {
    "class_token": "vit.embeddings.cls_token",
    "positions": "vit.embeddings.position_embeddings",
    "patches": "vit.embeddings.patch_embeddings.projection",
    "layers": "vit.layers",
    "attention.query": "attention.q_proj",
    "attention.key": "attention.k_proj",
    "attention.value": "attention.v_proj",
    "attention.output": "attention.o_proj",
    "attention_norm": "layernorm_before",
    "feed_forward_norm": "layernorm_after",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
    "norm": "vit.layernorm",
    "head": "classifier",
}


def their_name(ours: str) -> str:
    parts, kind = ours.rpartition(".")[0], ours.rpartition(".")[2]
    if not parts:
        return THEIR_NAMES[kind]
    if parts.startswith("layers."):
        _, index, inner = parts.split(".", 2)
        return f"vit.layers.{index}.{THEIR_NAMES[inner]}.{kind}"
    return f"{THEIR_NAMES[parts]}.{kind}"


def published_twin(model: VisionTransformer) -> ViTForImageClassification:
    """The class of transformers with copies of the weights of `model`; every weight must have its place."""
    shape = model.shape
    config = ViTConfig(
        hidden_size=shape.dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.hidden,
        image_size=shape.image,
        patch_size=shape.patch,
        num_channels=shape.channels,
        num_labels=shape.classes,
        attn_implementation="eager",
    )
    twin = ViTForImageClassification(config)
    twin.load_state_dict({their_name(name): value.clone() for name, value in model.state_dict().items()})
    return twin.eval().requires_grad_(False)


def assert_same_logits(model: VisionTransformer, images: Tensor) -> None:
    theirs = published_twin(model)(images).logits
    assert theirs.std() > 0.3, "logits this small would hide a mistake"
    assert (model(images) - theirs).abs().max() <= TOLERANCE


def test_logits_equal_the_published_class():
    torch.manual_seed(3)
    model = VisionTransformer(SHAPE).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.normal_(1.0 if "norm.weight" in name else 0.0, 0.15)  # larger than at the start: mistakes show
    assert_same_logits(model, torch.rand(3, 3, 24, 24))


def test_trained_weights_give_the_logits_of_the_published_class():
    assert_same_logits(VitEntry().build("tiny", 0), next(DigitsTask().batches(32))[0][0])


@pytest.mark.parametrize("size", SHAPES)
def test_parameter_count_equals_the_closed_form(size):
    skeleton = VitEntry().skeleton(size)
    assert sum(p.numel() for p in skeleton.parameters()) == SHAPES[size].parameters


def test_full_has_the_published_count_and_small_its_promised_size():
    full = VitEntry().facts("full")
    assert full["parameters"] == full["published_parameters"] == 86_567_656
    assert 30e6 <= VitEntry().facts("small")["parameters"] <= 120e6


def test_checkpoint_reads_held_out_digits():
    facts = VitEntry().facts("tiny")
    quality = task_quality(VitEntry().build("tiny", 0), DigitsTask())
    assert quality["samples"] == 608
    assert quality["value"] >= 0.98
    assert quality == pytest.approx(facts["quality"])


def test_attention_is_the_plain_one_in_every_layer():
    model = VitEntry().skeleton("small")
    assert sum(isinstance(module, EagerAttention) for module in model.modules()) == SHAPES["small"].layers
    assert not any(isinstance(module, nn.MultiheadAttention) for module in model.modules())


def test_an_augmented_digit_is_another_image_of_the_same_digit():
    (images,), _ = next(DigitsTask().batches(32))
    seen = changed(images, torch.Generator().manual_seed(0))
    assert seen.shape == images.shape and 0 <= seen.min() and seen.max() <= 1
    assert torch.equal(seen, changed(images, torch.Generator().manual_seed(0)))
    similar = nn.functional.cosine_similarity(seen.flatten(1), images.flatten(1))
    assert 0.6 < similar.min() and similar.max() < 0.999
