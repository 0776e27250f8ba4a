"""The fingerprint that makes a number repeatable: machine, versions, settings, load, shapes.

Two measurements may be compared only when what they ran on is known, so everything that is cheap to read and moves a
result is kept beside the raw samples. Unknown is None. On Linux the facts come from /proc and /sys; elsewhere from
`platform` alone.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from hybrid_core.measurement.case import Case
from hybrid_core.measurement.nested import describe, leaves

CPU_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
)
ENVIRONMENT_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "GOMP_SPINCOUNT",
    "GOMP_CPU_AFFINITY",
    "KMP_BLOCKTIME",
    "KMP_AFFINITY",
    "MKL_NUM_THREADS",
    "MALLOC_CONF",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "CUDA_VISIBLE_DEVICES",
    "TORCHINDUCTOR_FREEZING",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
    "ATEN_CPU_CAPABILITY",
)


# Libraries that settings use: another version of one may make another model of the same recipe.
LIBRARIES = ("numpy", "torchao", "onnxruntime", "openvino", "nncf", "transformers")


def library_versions() -> dict[str, str]:
    """The installed ones with their versions; imports none of them."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def read_environment(case: Case, inputs: Any) -> dict[str, Any]:
    """Everything that stays the same during one trial, JSON-able."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        **library_versions(),
        "platform": platform.platform(),
        "cpu_model": cpu_model(read_text("/proc/cpuinfo")) or platform.processor() or None,
        "cpu_flags": cpu_flags(read_text("/proc/cpuinfo")),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "device": str(case.device),
        "seed": case.seed,
        "workload": case.workload.label,
        "inputs": [f"{path} {describe(leaf)}" for path, leaf in leaves(inputs, "input")],
        "quantized_engine": torch.backends.quantized.engine,
        "onednn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "variables": {name: os.environ[name] for name in ENVIRONMENT_VARIABLES if name in os.environ},
        "process": {"pid": os.getpid(), "executable": Path(sys.executable).name},
        **_cuda_facts(case.device),
    }


def read_load() -> dict[str, Any]:
    """What changes and is no matter of the timed blocks alone (see `conditions`); read before and after them."""
    return {"load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None}


def load_facts(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Two loads as facts."""
    return {"load_average_before": before["load_average"], "load_average_after": after["load_average"]}


def cpu_model(cpuinfo: str) -> str | None:
    """The processor's name from the text of /proc/cpuinfo; None where it has none (many ARM kernels)."""
    for line in cpuinfo.splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return None


def cpu_flags(cpuinfo: str) -> list[str]:
    """Which of the instruction sets that decide a measurement's outcome this processor has.

    >>> cpu_flags("flags : fpu sse avx2 fma avx512_vnni")
    ['avx2', 'fma', 'avx512_vnni']
    """
    for line in cpuinfo.splitlines():
        if line.startswith(("flags", "Features")):
            has = set(line.split(":", 1)[1].split())
            return [flag for flag in CPU_FLAGS if flag in has]
    return []


def cpu_mhz(cpuinfo: str) -> list[float] | None:
    """Current clock of each core in MHz, or None where the kernel does not say."""
    clocks = [float(line.split(":", 1)[1]) for line in cpuinfo.splitlines() if line.startswith("cpu MHz")]
    return clocks or None


def read_text(path: str) -> str:
    """A kernel file as text, empty where the system has none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cuda_facts(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpu_total_bytes": properties.total_memory,
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
    }
