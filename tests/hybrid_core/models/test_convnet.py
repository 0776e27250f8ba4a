"""The digits network: counts, checkpoint, and the split that judges it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from hybrid_core.models.convnet import SHAPES, ConvNet, ConvNetEntry, ResidualBlock
from hybrid_core.models.quality import task_quality
from hybrid_core.models.tasks.digits import DigitsTask, held_out_digits


def counted(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("size", SHAPES)
def test_parameter_count_equals_the_closed_form(size):
    with torch.device("meta"):
        assert counted(ConvNet(SHAPES[size])) == SHAPES[size].parameters


def test_full_is_the_published_resnet_18():
    """Against an implementation of somebody else, weights copied in order: same count, same logits."""
    config = ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=1000
    )
    torch.manual_seed(0)
    theirs = ResNetForImageClassification(config).eval()
    ours = ConvNetEntry().build("full", 0)
    assert counted(theirs) == counted(ours) == ConvNetEntry().facts("full")["published_parameters"]
    copied = in_order_of_their_modules(ours)
    assert [p.shape for p in copied] == [p.shape for p in theirs.parameters()]
    for target, source in zip(theirs.parameters(), copied, strict=True):
        target.data.copy_(source)
    for target, source in zip(theirs.buffers(), in_order_of_their_modules(ours, "buffers"), strict=True):
        target.copy_(source)
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images).logits, ours(images), rtol=0, atol=1e-4)


def in_order_of_their_modules(model, kind="parameters"):
    """Ours, with each block's shortcut before its convolutions, as transformers keeps them."""
    parts = [model.stem, model.stem_norm]
    for block in model.blocks:
        parts += [block.shortcut, block.conv1, block.norm1, block.conv2, block.norm2]
    return [tensor for part in [*parts, model.head] for tensor in getattr(part, kind)()]


def test_small_is_of_the_size_that_is_promised_and_random():
    facts = ConvNetEntry().facts("small")
    assert 30e6 <= facts["parameters"] <= 120e6
    assert facts["quality"] is None and not facts["trained"] and "random weights" in facts["limits"][0]


def test_checkpoint_reads_held_out_digits():
    quality = task_quality(ConvNetEntry().build("tiny", 0), DigitsTask())
    assert quality["samples"] == 608
    assert quality["low"] > 0.98
    assert quality["trivial"] < 0.12
    assert quality == pytest.approx(ConvNetEntry().facts("tiny")["quality"])


def test_relu_is_a_module_of_its_own_and_not_in_place():
    relus = [m for m in ConvNetEntry().build("tiny", 0).modules() if isinstance(m, nn.ReLU)]
    assert len(relus) == 9
    assert not any(relu.inplace for relu in relus)


def test_residual_block_equals_its_formula():
    torch.manual_seed(0)
    block = ResidualBlock(4, 6, stride=2).eval()
    x = torch.randn(2, 4, 8, 8)

    def normed(y, norm):
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    branch = F.relu(normed(F.conv2d(x, block.conv1.weight, stride=2, padding=1), block.norm1))
    branch = normed(F.conv2d(branch, block.conv2.weight, padding=1), block.norm2)
    skip = normed(F.conv2d(x, block.shortcut[0].weight, stride=2), block.shortcut[1])
    torch.testing.assert_close(block(x), F.relu(branch + skip))


@pytest.mark.parametrize("size", ["small", "full"])
def test_untrained_sizes_keep_their_activations_in_range(size):
    entry = ConvNetEntry()
    images = entry.make_inputs(size, entry.workloads(size)[0], torch.Generator().manual_seed(0))
    seen: list[float] = []
    model = entry.build(size, 0)
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.std().item()))
    model(*images)
    assert len(seen) == 8
    assert all(0.1 < deviation < 10 for deviation in seen)


def test_held_out_images_are_those_of_scikit_learn_and_not_trained_on():
    from hybrid_core.models.training.convnet import split_digits

    (training, _), (images, labels) = split_digits()
    stored_images, stored_labels = held_out_digits()
    assert torch.equal(stored_images, images.float().unsqueeze(1) / 16)
    assert torch.equal(stored_labels, labels.long())
    assert len(training) + len(images) == 1797
