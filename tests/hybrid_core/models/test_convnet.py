"""The digits network: counts, checkpoint, and the split that judges it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybrid_core.models.convnet import SHAPES, ConvNet, ConvNetEntry, ResidualBlock
from hybrid_core.models.quality import task_quality
from hybrid_core.models.tasks.digits import DigitsTask, held_out_digits


@pytest.mark.parametrize("size", SHAPES)
def test_parameter_count_equals_the_closed_form(size):
    assert sum(p.numel() for p in ConvNet(SHAPES[size]).parameters()) == SHAPES[size].parameters


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


def test_untrained_size_keeps_its_activations_in_range():
    entry = ConvNetEntry()
    images = entry.make_inputs("small", entry.workloads("small")[0], torch.Generator().manual_seed(0))
    seen = []
    model = entry.build("small", 0)
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.std().item()))
    model(*images)
    assert len(seen) == 6
    assert all(0.1 < deviation < 10 for deviation in seen)


def test_held_out_images_are_those_of_scikit_learn_and_not_trained_on():
    from hybrid_core.models.train_convnet import split_digits

    (training, _), (images, labels) = split_digits()
    stored_images, stored_labels = held_out_digits()
    assert torch.equal(stored_images, images.float().unsqueeze(1) / 16)
    assert torch.equal(stored_labels, labels.long())
    assert len(training) + len(images) == 1797
