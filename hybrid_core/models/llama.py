"""Llama 3.1: RMSNorm, rotary positions with their own scaling, grouped-query attention, SwiGLU, no biases.

`tiny` reads bytes, is trained on Python's standard library and shipped with its weights; `small` has the weight of a
real model and random values; `full` has the dimensions of the published 405B model. Numbers: origin of the shapes is
Meta's model card and `sku_list`; 405,853,388,800 parameters follow from them in closed form.
"""

from __future__ import annotations

from hybrid_core.models.checkpoints import CHECKPOINTS
from hybrid_core.models.language import DecoderShape, DenseEntry
from hybrid_core.models.parts.rotary import Llama3Scaling
from hybrid_core.records import Workload

SHAPES = {
    "tiny": DecoderShape(dim=192, layers=4, heads=6, kv_heads=2, head_dim=32, hidden=512),
    # The 31 M decoder of the project's feasibility study, with a byte vocabulary.
    "small": DecoderShape(dim=640, layers=8, heads=10, kv_heads=2, head_dim=64, hidden=1792),
    "full": DecoderShape(
        dim=16384,
        layers=126,
        heads=128,
        kv_heads=8,
        head_dim=128,
        hidden=53248,
        vocabulary=128_256,
        max_length=131_072,
        theta=500_000.0,
        rope=Llama3Scaling(),
    ),
}


class LlamaEntry(DenseEntry):
    """The registry's entry."""

    name = "llama"
    family = "llama"
    title = "Llama 3.1"
    description = (
        "A decoder of the Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU. The tiny size "
        "reads bytes and is trained on Python's standard library; full has the dimensions of Llama-3.1-405B."
    )
    architecture = (
        "Pre-norm decoder with RMSNorm, grouped-query attention, rotary positions (Llama 3.1 scaling at full size), "
        "SwiGLU, no biases, separate input and output embeddings."
    )
    sources = (
        "Touvron et al. 2023, arXiv 2302.13971",
        "Grattafiori et al. 2024, The Llama 3 Herd of Models, arXiv 2407.21783",
    )
    checkpoint = CHECKPOINTS / "llama-tiny.safetensors"
    published_parameters = 405_853_388_800
    shapes = SHAPES
    small_prefill, small_context = 256, 128

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """For `tiny` also a longer text, where attention weighs more."""
        usual = super().workloads(size)
        return (*usual, Workload("prefill_long", "prefill", batch=1, length=1024)) if size == "tiny" else usual
