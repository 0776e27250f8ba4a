"""What each memory figure means, in one sentence: shown on hover, and the table of docs/measurement.md.

The names are those of the records: columns of a trial, and entries of `environment["memory"]`.
"""

from __future__ import annotations

MEMORY_RATIO = "Peak memory of the untouched model divided by that of the candidate; above 1 it needs less."

# name -> (label, sentence)
MEMORY = {
    "peak_bytes": (
        "Peak memory",
        "What the model holds between calls plus the most that is alive inside one call, its answer included and its "
        "inputs not.",
    ),
    "weight_bytes": (
        "Weights",
        "What the model holds between calls: parameters, buffers, packed weights and all else that it keeps alive, "
        "each piece of memory once.",
    ),
    "resident_bytes": (
        "Process at most",
        "The most RAM that the measuring process ever had, with interpreter, libraries and both models: a check, not a "
        "property of the candidate.",
    ),
    "cold.resident_growth_bytes": (
        "Process, first call",
        "How far the process grew at most while the candidate was transformed and called for the first time, with all "
        "that compiling takes.",
    ),
    "warm.resident_growth_bytes": (
        "Process, later calls",
        "How far the process grew at most in later calls; 0 where memory freed earlier was enough.",
    ),
    "cold.gpu_allocated_bytes": (
        "GPU allocated, first call",
        "The most that tensors took of the GPU at one moment while the candidate was transformed and called for the "
        "first time, above what there was before.",
    ),
    "warm.gpu_allocated_bytes": (
        "GPU allocated, later calls",
        "The most that tensors took of the GPU at one moment of later calls, above what there was before.",
    ),
    "cold.gpu_reserved_bytes": (
        "GPU reserved, first call",
        "The most that PyTorch had asked of the driver up to the first call, with what it keeps for later use, above "
        "what there was before.",
    ),
    "warm.gpu_reserved_bytes": (
        "GPU reserved, later calls",
        "The most that PyTorch had asked of the driver in later calls, above what there was before.",
    ),
    "gpu_process_bytes": (
        "GPU, whole process",
        "What the driver says the measuring process holds of the GPU, with its context, libraries and both models.",
    ),
}
