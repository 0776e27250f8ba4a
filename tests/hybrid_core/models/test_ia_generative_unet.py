"""The parts of the text-to-image network against PyTorch's own layers and against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybrid_core.models.base import freeze
from hybrid_core.models.drawing.diffusion import PADDING
from hybrid_core.models.drawing.prompts import encode
from hybrid_core.models.drawing.unet import MultiHeadAttention, ResidualBlock, time_features
from hybrid_core.models.ia_generative import SHAPES, GenerativeEntry, TextLayer, TextToImage
from hybrid_core.models.parts.blocks import EagerAttention

ENTRY = GenerativeEntry()


def untrained(seed=0):
    torch.manual_seed(seed)
    return freeze(TextToImage(SHAPES["tiny"]))


@pytest.mark.parametrize("size", SHAPES)
def test_parameter_count_equals_the_closed_form(size):
    assert sum(p.numel() for p in ENTRY.skeleton(size).parameters()) == ENTRY.parameters(size)


def test_sizes_keep_to_their_bounds():
    assert 2 * ENTRY.parameters("tiny") <= 2_000_000
    assert 30e6 <= ENTRY.parameters("small") <= 120e6
    full = SHAPES["full"].image
    assert (full.widths, full.blocks) == ((320, 640, 1280, 1280), 2)


@pytest.mark.parametrize("size", SHAPES)
def test_prediction_has_the_shape_of_the_image_at_every_size(size):
    shape = SHAPES[size]
    image = torch.empty(2, shape.image.channels, shape.image.image, shape.image.image, device="meta")
    tokens = torch.empty(2, shape.text.length, dtype=torch.int64, device="meta")
    assert ENTRY.skeleton(size)(image, torch.empty(2, device="meta"), tokens).shape == image.shape


def test_attention_equals_the_one_of_pytorch():
    torch.manual_seed(0)
    ours, theirs = (
        MultiHeadAttention(32, 24, 8),
        nn.MultiheadAttention(32, 4, bias=False, kdim=24, vdim=24, batch_first=True),
    )
    theirs.load_state_dict(
        {
            "q_proj_weight": ours.query.weight,
            "k_proj_weight": ours.key.weight,
            "v_proj_weight": ours.value.weight,
            "out_proj.weight": ours.output.weight,
        }
    )
    x, memory = torch.randn(2, 5, 32), torch.randn(2, 7, 24)
    padding = torch.arange(7) >= torch.tensor([[4], [7]])
    expected, _ = theirs(x, memory, memory, key_padding_mask=padding, need_weights=False)
    mask = padding[:, None, None, :].float() * -1e4
    torch.testing.assert_close(ours(x, memory, mask), expected)


def test_text_layer_equals_the_encoder_layer_of_pytorch():
    torch.manual_seed(1)
    ours = TextLayer(16, 8).eval()
    theirs = nn.TransformerEncoderLayer(
        16, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    attention = ours.attention
    theirs.self_attn.in_proj_weight.data = torch.cat(
        [part.weight for part in (attention.query, attention.key, attention.value)]
    )
    theirs.self_attn.in_proj_bias.data.zero_()
    theirs.self_attn.out_proj.weight.data = attention.output.weight.data
    theirs.self_attn.out_proj.bias.data.zero_()
    for mine, other in ((ours.feed_forward[0], theirs.linear1), (ours.feed_forward[2], theirs.linear2)):
        other.load_state_dict(mine.state_dict())
    x = torch.randn(3, 6, 16)
    torch.testing.assert_close(ours(x, torch.zeros(1, 1)), theirs(x), rtol=1e-5, atol=1e-5)


def test_residual_block_equals_its_formula():
    torch.manual_seed(2)
    block = ResidualBlock(8, 12, time_dim=6, groups=4)
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x, time = torch.randn(2, 8, 4, 4), torch.randn(2, 6)

    def normed(y, norm):
        grouped = y.view(2, 4, -1)
        scaled = (grouped - grouped.mean(-1, keepdim=True)) / (
            grouped.var(-1, unbiased=False, keepdim=True) + 1e-5
        ).sqrt()
        return scaled.view(y.shape) * norm.weight[:, None, None] + norm.bias[:, None, None]

    def silu(y):
        return y / (1 + torch.exp(-y))

    branch = F.conv2d(silu(normed(x, block.norm1)), block.conv1.weight, block.conv1.bias, padding=1)
    branch = branch + (time @ block.time.weight.T + block.time.bias).view(2, 12, 1, 1)
    branch = F.conv2d(silu(normed(branch, block.norm2)), block.conv2.weight, block.conv2.bias, padding=1)
    skip = F.conv2d(x, block.shortcut.weight, block.shortcut.bias)
    torch.testing.assert_close(block(x, time), branch + skip, rtol=1e-4, atol=1e-5)


def test_time_features_are_the_sines_and_cosines_of_the_formula():
    features = time_features(torch.tensor([0.0, 0.25]), 8)
    for i in range(4):
        angle = 250 * 1000 ** (-i / 4)
        assert features[1, i].item() == pytest.approx(math.sin(angle), abs=1e-4)
        assert features[1, 4 + i].item() == pytest.approx(math.cos(angle), abs=1e-4)
    assert features[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_more_padding_changes_nothing():
    model, noisy = untrained(), torch.randn(2, 1, 8, 8)
    time = torch.tensor([0.3, 0.8])
    short, long = (encode(["a seven", "8"], length) for length in (12, 48))
    assert (long[:, 12:] == PADDING).all()
    torch.testing.assert_close(model(noisy, time, short), model(noisy, time, long), rtol=1e-4, atol=1e-5)


def test_images_of_a_batch_do_not_see_each_other():
    model = untrained(1)
    noisy, time, tokens = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9]), encode(["one", "two", "three"], 48)
    together = model(noisy, time, tokens)
    for row in range(3):
        alone = model(noisy[row : row + 1], time[row : row + 1], tokens[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", ["image", "time", "prompt"])
def test_each_input_changes_the_prediction(changed):
    model = untrained(2)
    inputs = {"image": torch.randn(1, 1, 8, 8), "time": torch.tensor([0.5]), "prompt": encode(["a two"], 48)}
    others = {"image": torch.randn(1, 1, 8, 8), "time": torch.tensor([0.6]), "prompt": encode(["a six"], 48)}
    before = model(*inputs.values())
    assert (model(*{**inputs, changed: others[changed]}.values()) - before).abs().max() > 1e-4


def test_attention_and_activations_stay_modules_of_their_own():
    """What strategies look for: eager attention over text, over the image and from image to text; SiLU not in place."""
    model = untrained()
    cores = [name for name, module in model.named_modules() if isinstance(module, EagerAttention)]
    assert len([name for name in cores if name.startswith("text.")]) == 2
    assert len([name for name in cores if name.endswith(".own.core")]) == 5
    assert len([name for name in cores if name.endswith(".text.core")]) == 5
    silus = [m for m in model.modules() if isinstance(m, nn.SiLU)]
    assert len(silus) > 10 and not any(silu.inplace for silu in silus)
