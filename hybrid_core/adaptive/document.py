"""What the original document claims, kept as claims: where to begin when nothing has been measured yet.

It lists strategies per model family (`model_optimizations`) and one speed, memory and accuracy figure per strategy. No
measurement stands behind them, so whatever is built on this table says so. Standard library only: the hub uses it.
"""

from __future__ import annotations

# strategy -> the document's (speed, memory, accuracy) figures
CLAIMED: dict[str, tuple[float, float, float]] = {
    "kernel_fusion": (1.2, 1.1, 0.99),
    "quantization": (1.5, 2.0, 0.97),
    "memory_pooling": (1.1, 1.8, 1.00),
    "attention_fusion": (1.3, 1.4, 0.98),
}

# family -> the strategies the document gives it, in its order
MODEL_OPTIMIZATIONS: dict[str, tuple[str, ...]] = {
    "deepseek": ("kernel_fusion", "quantization", "attention_fusion"),
    "llama": ("memory_pooling", "kernel_fusion", "quantization"),
    "claude": ("attention_fusion", "memory_pooling"),
    "viral_clipper": ("kernel_fusion", "memory_pooling"),
    "brandkit": ("quantization", "memory_pooling"),
    "qwen": ("attention_fusion", "kernel_fusion"),
}

# The document names strategies only; this is the setting of each that comes closest to its description ("single
# kernels", "8-bit quantization", "tensor and activation caching", "flash attention").
NEAREST_SETTING: dict[str, str] = {
    "kernel_fusion": "compile",
    "quantization": "int8_dynamic",
    "memory_pooling": "static_cache",
    "attention_fusion": "sdpa",
}
