"""Qwen2.5 and QwQ: the dense Llama form with biases on query, key and value.

QwQ-32B is a Qwen2.5-32B that was trained further to write its reasoning down, so both entries share one architecture
and differ in what their `tiny` weights learned: `qwen` continues source text, `qwq` works out small sums step by step.

Sources: Qwen2.5 technical report (arXiv 2412.15115); QwQ-32B model card. Both have 32,763,876,352 parameters.
"""

from __future__ import annotations

from dataclasses import replace

from hybrid_core.models.base import Task
from hybrid_core.models.checkpoints import CHECKPOINTS
from hybrid_core.models.language import DecoderShape, DenseEntry

FULL = DecoderShape(
    dim=5120,
    layers=64,
    heads=40,
    kv_heads=8,
    head_dim=128,
    hidden=27648,
    vocabulary=152_064,
    max_length=131_072,
    theta=1_000_000.0,
    qkv_bias=True,
)
SMALL = DecoderShape(
    dim=768, layers=8, heads=12, kv_heads=2, head_dim=64, hidden=2048, theta=1_000_000.0, qkv_bias=True, max_length=4096
)
QWEN_SHAPES = {
    "tiny": DecoderShape(dim=192, layers=4, heads=6, kv_heads=1, head_dim=32, hidden=576, qkv_bias=True),
    "small": SMALL,
    "full": FULL,
}
QWQ_SHAPES = {
    "tiny": DecoderShape(dim=128, layers=4, heads=4, kv_heads=2, head_dim=32, hidden=384, qkv_bias=True),
    # One layer more than qwen's, so that the two are not the same random model under two names.
    "small": replace(SMALL, layers=9),
    "full": FULL,
}


class QwenEntry(DenseEntry):
    """The registry's entry of Qwen2.5."""

    name = "qwen"
    family = "qwen"
    title = "Qwen2.5"
    description = (
        "A dense decoder with biases on query, key and value. The tiny size reads bytes and is trained on Python's "
        "standard library; full has the dimensions of Qwen2.5-32B."
    )
    architecture = (
        "Pre-norm decoder with RMSNorm, grouped-query attention with biases on query, key and value, rotary positions, "
        "SwiGLU, separate input and output embeddings."
    )
    sources = ("Qwen Team 2024, Qwen2.5 Technical Report, arXiv 2412.15115",)
    checkpoint = CHECKPOINTS / "qwen-tiny.safetensors"
    published_parameters = 32_763_876_352
    shapes = QWEN_SHAPES


class QwqEntry(DenseEntry):
    """The registry's entry of QwQ."""

    name = "qwq"
    family = "qwen"
    title = "QwQ, reasoning in steps"
    description = (
        "The Qwen2.5 architecture trained to write its steps down. The tiny size does small sums byte by byte and is "
        "judged by exact answers; full has the dimensions of QwQ-32B."
    )
    architecture = QwenEntry.architecture
    sources = ("Qwen Team 2025, QwQ-32B model card", *QwenEntry.sources)
    checkpoint = CHECKPOINTS / "qwq-tiny.safetensors"
    published_parameters = 32_763_876_352
    shapes = QWQ_SHAPES

    def trained_task(self) -> Task | None:
        """Exact answers to sums nobody trained on."""
        from hybrid_core.models.tasks.arithmetic import ArithmeticTask

        return ArithmeticTask()

    def limits(self, size: str) -> list[str]:
        """The tiny size knows sums and nothing else."""
        if size == "tiny":
            return ["knows small sums in one notation and nothing else", "timed on source text, judged on sums"]
        return super().limits(size)
