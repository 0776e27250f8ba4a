"""What can be chosen on a fake machine without a GPU, as the catalog process reports it."""

from __future__ import annotations

from typing import Any

from hybrid_core.records import Workload, to_json
from tests.pages.fake_learning import SEARCH_METHODS_OFFERED

MEMORY_BYTES = 8 * 2**30
LIMIT_OF_RANDOM = "Its weights are random: speed and memory only."
PREFILL = Workload("prefill", "prefill", 1, 512)
DECODE = Workload("decode", "decode", 1, 256, 16)
FORWARD = Workload("forward", "forward", 32)
ENVIRONMENT = {
    "python": "3.11.7",
    "torch": "2.13.0+cpu",
    "cpu": "2 cores, x86-64 with AVX-512",
    "threads": 1,
    "dtype": "float32",
    "wait_policy": "PASSIVE",
}


def catalog() -> dict[str, Any]:
    """What the catalog process reports on a machine without a GPU."""

    def workload(w: Workload) -> dict[str, Any]:
        return {**to_json(w), "label": w.label}

    def setting(name: str, sentence: str, stage: int, cost: float, unavailable: str | None = None) -> dict[str, Any]:
        return {
            "name": name,
            "sentence": sentence,
            "stage": stage,
            "exact": stage != 40,
            "expected_cost_s": cost,
            "unavailable": unavailable,
        }

    quality = {
        "metric": "next-byte accuracy", "value": 0.561, "low": 0.552, "high": 0.57, "samples": 380,
        "unit": "window of 256 bytes", "trivial": 0.163, "bits_per_byte": 2.2, "rates": {"repeated": 0.031},
    }  # fmt: skip
    training = {"seed": 0, "steps": 4000, "training_data": "the standard library of Python", "held_out": {"a": 1}}
    facts = {
        **size_facts(3_148_032, cached=1024),
        "quality": quality,
        "training": training,
        "architecture": "Grouped queries, rotary embedding with llama3 scaling, SwiGLU.",
        "sources": ["Grattafiori et al. 2024, The Llama 3 Herd of Models"],
        "limits": ["It knows bytes of Python source and nothing else.", "It was trained for minutes."],
    }
    random_facts = {**facts, "trained": False, "quality": None, "training": None, "limits": [LIMIT_OF_RANDOM]}
    no_compiler = "no C++ compiler was found (tried c++, g++, clang++); install one and restart the hub"
    return {
        "models": [
            {
                "name": "llama",
                "family": "llama",
                "title": "Llama, byte level",
                "description": "RMSNorm, RoPE, grouped queries, SwiGLU and eager attention, trained on Python source.",
                "sizes": ["tiny", "small", "full"],
                "workloads": {size: [workload(PREFILL), workload(DECODE)] for size in ("tiny", "small", "full")},
                "facts": {
                    "tiny": facts,
                    "small": {**random_facts, **size_facts(25_000_000, cached=4096), "trained": False},
                    "full": {
                        **random_facts,
                        **size_facts(405_853_388_800, cached=258_048),
                        "published_parameters": 405_853_388_800,
                        "trained": False,
                    },
                },
            },
            {
                "name": "convnet",
                "family": "convnet",
                "title": "Digit classifier",
                "description": "Residual convolutions with batch normalisation, trained on 8 x 8 digits.",
                "sizes": ["tiny"],
                "workloads": {"tiny": [workload(FORWARD)]},
                "facts": {"tiny": {**size_facts(77_000), "trained": True}},
            },
            {
                "name": "sequential",
                "family": "sequential",
                "title": "The documented example",
                "description": "Linear, LayerNorm, Linear.",
                "sizes": ["tiny"],
                "workloads": {"tiny": [workload(Workload("forward", "forward", 64))]},
                "facts": {"tiny": {"parameters": 49_984, "trained": False}},
            },
        ],
        "strategies": [
            {
                "name": "attention_fusion",
                "title": "Attention fusion",
                "purpose": "Replaces eager attention by one fused kernel.",
                "claimed": {"speed": 1.6, "memory": 1.5, "accuracy": 0.99},
                "settings": [
                    setting("sdpa", "scaled_dot_product_attention with the model's own mask", 10, 12),
                    setting("sdpa_causal", "the causal kernel, where the mask is proven causal", 10, 12),
                ],
                "conflicts": [],
            },
            {
                "name": "kernel_fusion",
                "title": "Kernel fusion",
                "purpose": "Makes fewer, larger kernels.",
                "claimed": {"speed": 1.3, "memory": 1.1, "accuracy": 1.0},
                "settings": [
                    setting("fold", "folds norms into the linear or convolution beside them", 20, 10),
                    setting("compile", "torch.compile with the default backend", 90, 40, no_compiler),
                    setting("compile_freezing", "torch.compile with weights frozen into the code", 90, 60, no_compiler),
                ],
                "conflicts": [],
            },
            {
                "name": "quantization",
                "title": "Quantization",
                "purpose": "Stores numbers in fewer bits.",
                "claimed": {"speed": 1.5, "memory": 2.0, "accuracy": 0.97},
                "settings": [
                    setting("int8_dynamic", "linear weights as 8-bit integers, activations quantized per call", 40, 12),
                    setting("bfloat16", "weights and activations in bfloat16", 40, 12),
                ],
                "conflicts": [
                    {
                        "setting": "int8_dynamic",
                        "other_strategy": "kernel_fusion",
                        "other_setting": "compile_freezing",
                        "reason": "packed weights cannot be frozen",
                    }
                ],
            },
            {
                "name": "memory_pooling",
                "title": "Memory pooling",
                "purpose": "Needs less memory at its peak.",
                "claimed": {"speed": 1.2, "memory": 1.8, "accuracy": 1.0},
                "settings": [
                    setting(
                        "static_cache",
                        "the cache of keys and values is allocated once",
                        50,
                        12,
                        "needs a workload with a cache",
                    ),
                    setting("in_place", "activations reuse the buffer of their input", 30, 10, "no safe place"),
                ],
                "conflicts": [],
            },
        ],
        "trial_overhead_s": 8.0,
        "selection_methods": [
            {"name": "tournament", "sentence": "Draws a few candidates at random and keeps the fittest of them."},
            {"name": "roulette", "sentence": "Chooses in proportion to fitness."},
            {"name": "sus", "sentence": "The same wheel, spun once for all parents."},
            {"name": "rank", "sentence": "Chooses in proportion to rank, unmoved by outliers."},
            {"name": "exponential_rank", "sentence": "Each rank has a fixed share of the chance above it."},
            {"name": "pareto", "sentence": "The one that is better in every objective wins."},
            {"name": "rl", "sentence": "A small policy network trained on this run's own measurements chooses."},
        ],
        "search_methods": SEARCH_METHODS_OFFERED,
        "devices": [{"id": "cpu", "title": "Processor, 2 cores", "threads": 2, "memory_bytes": MEMORY_BYTES}],
        "environment": ENVIRONMENT,
    }


def size_facts(parameters: int, cached: int | None = None) -> dict[str, Any]:
    """The figures of one size, as the catalog tells them."""
    weights = {"float32": 4 * parameters, "bfloat16": 2 * parameters, "int8": parameters, "int4": parameters // 2}
    needed = 2 * weights["float32"]
    fits = needed <= MEMORY_BYTES
    sentence = (
        f"A run holds the untouched model and the candidate, {needed / 2**30:,.1f} GiB of weights in float32; "
        f"cpu has 8.0 GiB, so it {'fits' if fits else 'does not fit'}."
    )
    fit = {"fits": fits, "needed_bytes": needed, "available_bytes": MEMORY_BYTES, "sentence": sentence}
    return {
        "parameters": parameters,
        "published_parameters": None,
        "weights_bytes": weights,
        "kv_cache_bytes_per_token": cached and {"float32": 4 * cached, "bfloat16": 2 * cached},
        "trained": True,
        "fits": {"cpu": fit},
    }
