"""What a candidate's process gets from us, and how nothing of it is left behind.

Its environment is built up from a short list instead of copied down, so no token or proxy of the user reaches foreign
code. It carries a cookie that its children inherit: by that, and never by name, every process it started is found again
wherever it went.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil

from workers.paths import make_private_folder

EXIT_GRACE_S = 5.0
COOKIE_VARIABLE = "HYBRID_TRIAL_COOKIE"
SCRATCH_VARIABLE = "HYBRID_TRIAL_SCRATCH"
# What the trial of the untouched model measured of the device, for the later trials of the run.
ROOFLINE_VARIABLE = "HYBRID_TRIAL_ROOFLINE"
# Passed through to a measure process; everything else (proxies, tokens, cloud keys) stays outside.
KEPT_VARIABLES = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CC",
    "CXX",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
)


def measure_environment(
    scratch: Path, threads: int, cookie: str, variables: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The built-up (not copied) environment of a measure process; creates its private folders.

    Compiler caches are shared by the trials of one run and by nobody else: libraries are loaded from them.
    `variables` are what the recipe's settings want a process to start with; they never replace ours.
    """
    names = ("home", "tmp", "inductor", "found")
    home, temporary, inductor, found = (make_private_folder(scratch / name) for name in names)
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {
        **(variables or {}),
        **kept,
        "HOME": str(home),
        "TMPDIR": str(temporary),
        SCRATCH_VARIABLE: str(found),
        "TORCHINDUCTOR_CACHE_DIR": str(inductor),
        "TRITON_CACHE_DIR": str(inductor / "triton"),
        # One compiling process: Inductor's pool would import torch again in each of its workers.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        COOKIE_VARIABLE: cookie,
    }


def kill_group(group: int) -> None:
    """SIGKILL to a process group; a group that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_by_cookie(cookie: str) -> None:
    """Kill whatever carries the trial's cookie, wherever it went (setsid, double fork), and wait until it is gone."""
    killed = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(COOKIE_VARIABLE) == cookie:
                process.kill()
                # Waiting for our own child here would take its exit code from whoever watches it.
                if process.ppid() != os.getpid():
                    killed.append(process)
    psutil.wait_procs(killed, timeout=EXIT_GRACE_S)


def count_oom_kills() -> int:
    """How often the kernel's out-of-memory killer has struck since boot; 0 where it is not told."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
