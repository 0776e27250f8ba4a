"""DeepSeek-V3: a decoder with latent attention, and after the first layers a mixture of experts in each.

It asks an optimizer for the opposite of what a dense decoder does: its cache is small already, few multiplications are
made per weight that is held in memory, and the dispatch depends on the data. `full` has the published dimensions,
671,026,419,200 parameters with the 14,848 selection biases of the routers, which are parameters here. The module for
predicting a second token (multi-token prediction, 14 B on the hub) is not part of that count and not built.

Source: DeepSeek-AI 2024, arXiv 2412.19437; dimensions from `inference/configs/config_671B.json` of its repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hybrid_core.models.base import check_size
from hybrid_core.models.checkpoints import CHECKPOINTS
from hybrid_core.models.language import BYTES, LanguageEntry
from hybrid_core.models.parts.blocks import Cache, RMSNorm, SwiGLU
from hybrid_core.models.parts.decoder import Decoder
from hybrid_core.models.parts.experts import MixtureOfExperts, Routing
from hybrid_core.models.parts.latent_attention import LatentAttention, LatentWidths
from hybrid_core.models.parts.rotary import rotary_table
from hybrid_core.models.parts.rotary_yarn import YarnScaling, yarn_table


@dataclass(frozen=True)
class DeepSeekShape:
    """The dimensions of one size; the first `dense_layers` have one SwiGLU of width `hidden` instead of experts."""

    dim: int
    layers: int
    dense_layers: int
    hidden: int
    attention: LatentWidths
    routing: Routing
    vocabulary: int = BYTES
    max_length: int = 2048
    theta: float = 10_000.0
    yarn: YarnScaling | None = None
    norm_eps: float = 1e-6

    @property
    def parameters(self) -> int:
        """The count in closed form, selection biases included.

        >>> SHAPES["full"].parameters
        671026419200
        """
        return self._count(self.routing.parameters(self.dim))

    @property
    def activated_parameters(self) -> int:
        """Those that work on one token, with embedding, head and selection biases.

        >>> SHAPES["full"].activated_parameters
        37552297472
        """
        return self._count(self.routing.activated_parameters(self.dim))

    @property
    def cache_values_per_token(self) -> int:
        """One latent and one shared rotary key per layer."""
        return self.layers * self.attention.cache_values_per_token

    @property
    def uncompressed_cache_values_per_token(self) -> int:
        """What full keys and values of every head would take."""
        return self.layers * self.attention.heads * (self.attention.plain + self.attention.value)

    def _count(self, experts: int) -> int:
        every = self.attention.parameters(self.dim) + 2 * self.dim
        feed_forward = self.dense_layers * 3 * self.dim * self.hidden + (self.layers - self.dense_layers) * experts
        return self.layers * every + feed_forward + self.dim + 2 * self.vocabulary * self.dim


SHAPES = {
    "tiny": DeepSeekShape(
        dim=128,
        layers=4,
        dense_layers=1,
        hidden=384,
        attention=LatentWidths(heads=4, latent=64, plain=32, rope=16, value=32, query_rank=96),
        routing=Routing(experts=8, groups=4, groups_per_token=2, experts_per_token=2, hidden=128),
    ),
    "small": DeepSeekShape(
        dim=512,
        layers=8,
        dense_layers=1,
        hidden=1408,
        attention=LatentWidths(heads=8, latent=128, plain=64, rope=32, value=64, query_rank=256),
        routing=Routing(experts=16, groups=4, groups_per_token=2, experts_per_token=4, hidden=256),
        max_length=8192,
        yarn=YarnScaling(factor=4.0, original_length=2048),
    ),
    "full": DeepSeekShape(
        dim=7168,
        layers=61,
        dense_layers=3,
        hidden=18_432,
        attention=LatentWidths(heads=128, latent=512, plain=128, rope=64, value=128, query_rank=1536),
        routing=Routing(experts=256, groups=8, groups_per_token=4, experts_per_token=8, hidden=2048),
        vocabulary=129_280,
        max_length=131_072,
        yarn=YarnScaling(factor=40.0, original_length=4096),
    ),
}


class DeepSeekLayer(nn.Module):
    """Pre-norm latent attention and pre-norm feed-forward, each added to the residual stream."""

    def __init__(self, shape: DeepSeekShape, dense: bool) -> None:
        super().__init__()
        score_scale = 1.0 if shape.yarn is None else shape.yarn.score_scale
        self.attention_norm = RMSNorm(shape.dim, shape.norm_eps)
        self.attention = LatentAttention(shape.dim, shape.attention, shape.norm_eps, score_scale)
        self.feed_forward_norm = RMSNorm(shape.dim, shape.norm_eps)
        self.feed_forward = SwiGLU(shape.dim, shape.hidden) if dense else MixtureOfExperts(shape.dim, shape.routing)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, layer: int = 0, cache: Cache | None = None
    ) -> Tensor:
        """Hidden states (batch, tokens, dim) to the same."""
        x = x + self.attention(self.attention_norm(x), cos, sin, mask, layer, cache)
        lifted: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return lifted


class DeepSeek(Decoder):
    """A decoder described by its shape."""

    def __init__(self, shape: DeepSeekShape) -> None:
        layers = (DeepSeekLayer(shape, dense=index < shape.dense_layers) for index in range(shape.layers))
        size = (shape.attention.rope, shape.max_length, shape.theta)
        table = rotary_table(*size) if shape.yarn is None else yarn_table(*size, shape.yarn)
        super().__init__(shape.vocabulary, shape.dim, layers, table, shape.norm_eps)
        self.shape = shape

    def _initialise(self) -> None:
        # Where weights have no memory, drawing 45,000 of them gives nothing and takes most of a minute.
        if not self.embedding.weight.is_meta:
            super()._initialise()


class DeepSeekEntry(LanguageEntry):
    """The registry's entry."""

    name = "deepseek"
    family = "deepseek"
    title = "DeepSeek-V3"
    description = (
        "A mixture of experts with latent attention. The tiny size reads bytes and is trained on Python's standard "
        "library; full has the dimensions of DeepSeek-V3."
    )
    architecture = (
        "Pre-norm decoder with RMSNorm; attention expands keys and values from a cached latent vector; the first "
        "layers have a dense SwiGLU, the others a shared and several routed SwiGLU experts, chosen by sigmoid scores "
        "with a selection bias within a limited number of groups."
    )
    sources = (
        "DeepSeek-AI 2024, DeepSeek-V3 Technical Report, arXiv 2412.19437",
        "DeepSeek-AI 2024, DeepSeek-V2, arXiv 2405.04434 (latent attention)",
        "Peng et al. 2023, YaRN, arXiv 2309.00071",
    )
    checkpoint = CHECKPOINTS / "deepseek-tiny.safetensors"
    published_parameters = 671_026_419_200

    def make(self, size: str) -> nn.Module:
        """The decoder of this size."""
        return DeepSeek(SHAPES[size])

    def parameters(self, size: str) -> int:
        """Closed form."""
        check_size(self.name, self.sizes, size)
        return SHAPES[size].parameters

    def cache_values_per_token(self, size: str) -> int | None:
        """Latents and shared rotary keys of all layers."""
        check_size(self.name, self.sizes, size)
        return SHAPES[size].cache_values_per_token

    def max_length(self, size: str) -> int:
        """From the shape."""
        return SHAPES[size].max_length

    def vocabulary(self, size: str) -> int:
        """From the shape."""
        return SHAPES[size].vocabulary

    def limits(self, size: str) -> list[str]:
        """Those of the weights, and what the dispatch does to a compiler."""
        changing = (
            "how many rows an expert gets depends on the text: torch.compile finds new shapes at every call and gives "
            "up at its limit of recompilations"
        )
        return [*super().limits(size), changing]

    def card(self, size: str) -> dict[str, Any]:
        """How much of the model one token uses, and what its cache is spared."""
        shape, routing = SHAPES[size], SHAPES[size].routing
        return {
            **super().card(size),
            "activated_parameters": shape.activated_parameters,
            "selection_biases": (shape.layers - shape.dense_layers) * routing.experts,
            "experts": f"{routing.experts} routed, {routing.experts_per_token} per token from "
            f"{routing.groups_per_token} of {routing.groups} groups, {routing.shared} shared",
            "cache_values_per_token_and_layer": shape.attention.cache_values_per_token,
            "uncompressed_cache_values_per_token": shape.uncompressed_cache_values_per_token,
            "yarn": "none" if shape.yarn is None else f"{shape.yarn.factor:g} x {shape.yarn.original_length} tokens",
        }
