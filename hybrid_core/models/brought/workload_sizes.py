"""What is timed on a brought Hugging Face model, and on which inputs.

Lengths and batches follow from the work that one call means (`sizing`) and from what the model can read. Inputs are
random: a folder does not say what its tokens mean, so agreement with the untouched model is what can be judged, and a
labelled file brings the model's own task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.family import CAUSAL, IMAGE
from hybrid_core.models.brought.folder_config import FolderConfig
from hybrid_core.models.brought.sizing import FLOPS_PER_CALL, count_flops, largest_power_of_two
from hybrid_core.records import Workload, to_json

SHORTEST, LONGEST = 8, 512
LARGEST_BATCH = 32
CLOUD_CELLS = 4
# A score that is written out, masked and normalised takes as long as this many operations (tried on one core).
WORK_OF_A_SCORE = 600
USUAL_IMAGE_SIDE = 224


def plan(model: nn.Module, config: FolderConfig) -> dict[str, Any]:
    """Workloads and the facts that explain them, counted on a model on the meta device."""
    if config.family.reads == IMAGE:
        return _plan_images(model, config)
    return _plan_text(model, config)


def make_inputs(config: FolderConfig, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Fresh inputs: tokens, for decode (context, next tokens), or images (batch, channels, side, side)."""
    if config.family.reads == IMAGE:
        shape = (workload.batch, image_channels(config))
        return (cloudy_images(shape, image_side(config), generator),)
    length = workload.length + workload.new_tokens
    tokens = torch.randint(vocabulary(config), (workload.batch, length), generator=generator)
    if config.gives != CAUSAL:
        tokens = _without_padding(tokens, config)
    if workload.kind == "decode":
        return tokens[:, : workload.length].contiguous(), tokens[:, workload.length :].contiguous()
    return (tokens,)


def cloudy_images(shape: tuple[int, int], side: int, generator: torch.Generator) -> Tensor:
    """(batch, channels, side, side) smooth random images; the mean of plain noise would be the same for every image."""
    coarse = torch.randn(*shape, CLOUD_CELLS, CLOUD_CELLS, generator=generator)
    return F.interpolate(coarse, size=(side, side), mode="bilinear")


def vocabulary(config: FolderConfig) -> int:
    """How many tokens there are."""
    return int(_needed(config, "vocab_size"))


def image_side(config: FolderConfig) -> int:
    """Side of the images; networks of convolutions alone do not say, and get the usual one."""
    return int(config.values.get("image_size", USUAL_IMAGE_SIDE))


def image_channels(config: FolderConfig) -> int:
    """Channels of the images."""
    return int(config.values.get("num_channels", 3))


def longest_text(config: FolderConfig) -> int:
    """Tokens that fit; the RoBERTa family counts positions from behind the padding token on."""
    name = "n_positions" if config.model_type == "gpt2" else "max_position_embeddings"
    positions = int(_needed(config, name))
    if config.model_type in ("roberta", "xlm-roberta"):
        positions -= int(config.values.get("pad_token_id") or 0) + 1
    if positions < 2:
        raise InvalidInput(f"config.json: {name}={positions} leaves no room for two tokens; bring a longer model")
    return positions


def _plan_text(model: nn.Module, config: FolderConfig) -> dict[str, Any]:
    longest = longest_text(config)
    flops, scores = flops_per_token(model, config), scores_per_pair(config)

    def work(batch: int, length: int) -> float:
        return batch * length * (flops + length * scores * WORK_OF_A_SCORE)

    length = largest_power_of_two(lambda n: work(1, n), FLOPS_PER_CALL, min(SHORTEST, longest), min(LONGEST, longest))
    facts = {"max_length": longest, "vocabulary": vocabulary(config), "flops_per_token": flops}
    if config.gives == CAUSAL:
        workloads: tuple[Workload, ...] = (
            Workload("prefill", "prefill", batch=1, length=length),
            *_decode(length, longest),
        )
        limits = ["its inputs here are random tokens; the folder's tokenizer is not read"]
    else:
        batch = largest_power_of_two(lambda n: work(n, length), FLOPS_PER_CALL, 1, LARGEST_BATCH)
        workloads = (
            Workload("forward", "forward", batch=batch, length=length),
            *((Workload("forward_single", "forward", batch=1, length=length),) if batch > 1 else ()),
        )
        limits = ["its inputs here are random tokens without padding; the folder's tokenizer is not read"]
    takes = {"dtype": "int64", "shape": [None], "vocabulary": vocabulary(config), "longest": min(longest, LONGEST)}
    return _answer(workloads, limits, facts, takes, config)


def flops_per_token(model: nn.Module, config: FolderConfig) -> int:
    """Two operations for each number of a matrix that a token meets; a lookup is none, unused experts are none.

    Counted from the weights: text models look into their masks, which cannot be done on the meta device.
    """
    share = config.values.get("num_experts_per_tok", 1) / config.values.get("n_routed_experts", 1)
    matrices = 0.0
    for module in model.modules():
        if not isinstance(module, nn.Embedding):
            for weight in module.parameters(recurse=False):
                matrices += weight.numel() * {0: 0.0, 1: 0.0, 2: 1.0}.get(weight.ndim, share)
    return max(1, round(2 * matrices))


def scores_per_pair(config: FolderConfig) -> int:
    """Attention scores that one pair of positions gets: heads times layers."""
    heads = next(
        (config.values[key] for key in ("num_attention_heads", "n_head", "n_heads") if key in config.values), 1
    )
    layers = next(
        (config.values[key] for key in ("num_hidden_layers", "n_layer", "n_layers") if key in config.values), 1
    )
    return int(heads) * int(layers)


def _decode(length: int, longest: int) -> tuple[Workload, ...]:
    """Half as many tokens of context, then a few one by one."""
    context = max(1, min(length // 2, longest - 1))
    new = min(16 if length >= 128 else 4, longest - context)
    return (Workload("decode", "decode", batch=1, length=context, new_tokens=new),)


def _plan_images(model: nn.Module, config: FolderConfig) -> dict[str, Any]:
    channels, side = image_channels(config), image_side(config)
    flops = _counted(lambda: model(torch.zeros(1, channels, side, side, device="meta")))
    batch = largest_power_of_two(lambda n: n * flops, FLOPS_PER_CALL, 1, LARGEST_BATCH)
    workloads = [Workload("forward", "forward", batch=batch)]
    if batch > 1:
        workloads.append(Workload("forward_single", "forward", batch=1))
    limits = ["its inputs here are smooth random images; the folder's image processor is not read"]
    if "image_size" not in config.values:
        limits.append(f"config.json does not name an image size, so images of {side}x{side} are timed")
    facts = {"image": [channels, side, side], "flops_per_image": flops}
    takes = {"dtype": "float32", "shape": [channels, side, side], "vocabulary": None, "longest": 1}
    return _answer(workloads, limits, facts, takes, config)


def _answer(
    workloads: Sequence[Workload],
    limits: list[str],
    facts: dict[str, Any],
    takes: dict[str, Any],
    config: FolderConfig,
) -> dict[str, Any]:
    """The plan in the form of `Registration.details`; see `labels.make_task` for the last three."""
    return {
        "workloads": to_json(workloads),
        "limits": limits,
        "card": facts,
        "input": {**takes, "batch": None},
        "answers": config.gives,
        "classes": _classes(config),
    }


def _counted(run: Callable[[], Any]) -> int:
    try:
        return count_flops(run)
    except InvalidInput:
        raise
    except Exception as error:  # whatever the foreign module raises on shapes that do not fit each other
        lines = str(error).splitlines() or [""]
        raise InvalidInput(
            f"the model that config.json describes cannot be called ({type(error).__name__}: {lines[0]:.160}); check "
            "its numbers"
        ) from None


def _classes(config: FolderConfig) -> int | None:
    """How many classes a label may name; None where answers are hidden states."""
    if config.labels is not None:
        return config.labels
    return None if config.gives == "states" or config.family.reads == IMAGE else vocabulary(config)


def _without_padding(tokens: Tensor, config: FolderConfig) -> Tensor:
    """Move the padding token to its neighbour: every token of an input counts."""
    padding = config.values.get("pad_token_id")
    if padding is None:
        return tokens
    return torch.where(tokens == padding, (tokens + 1) % vocabulary(config), tokens)


def _needed(config: FolderConfig, key: str) -> Any:
    if key not in config.values:
        raise InvalidInput(f"config.json has no {key}; add it, as the default of transformers may change")
    return config.values[key]
