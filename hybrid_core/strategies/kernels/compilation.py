"""Compiles a model in place, so that it stays the same object with the same attributes and the same ways to call it.

`nn.Module.__call__` looks for a compiled call and uses it; that slot is filled here. Compilation happens at the first
call, where it is timed apart. A model that is compiled again and again (each new size of a cache, say) would run
uncompiled after the limit without a word; here that is an error that says so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Method, Setting, Situation


class CompiledCall:
    """The compiled form of one module's call. PyTorch drops it from copies of the module, which run uncompiled."""

    def __init__(
        self,
        model: nn.Module,
        dynamic: bool | None,
        freezing: bool,
        backend: str = "inductor",
        options: dict[str, Any] | None = None,
    ) -> None:
        def run(*args: Any, **kwargs: Any) -> Any:
            # A frame of our own: the compiler skips PyTorch's files and would not see a bare nn.Sequential.
            return model._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]

        # Compiled forms are kept, and limited in number, per code object: two models must not share one.
        run.__code__ = run.__code__.replace()
        self.freezing = freezing
        self._run = torch.compile(run, dynamic=dynamic, backend=backend, options=options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model; the first call of each form compiles.

        Raises:
            StrategyUnsupported: a new form was met again and again, up to the compiler's limit.
        """
        with refusing_endless_forms():
            if not self.freezing:
                return self._run(*args, **kwargs)
            # Freezing is decided while tracing, from this global switch, and only without gradients.
            with torch.no_grad(), torch._inductor.config.patch(freezing=True):
                return self._run(*args, **kwargs)


@contextmanager
def refusing_endless_forms() -> Iterator[None]:
    """Turn the compiler's silent retreat at its limit of forms into `StrategyUnsupported`."""
    from torch._dynamo.exc import FailOnRecompileLimitHit  # late: importing the compiler costs seconds

    try:
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            yield
    except FailOnRecompileLimitHit as limit:
        raise StrategyUnsupported(
            f"shapes or branches inside the model change from call to call: torch.compile made "
            f"{torch._dynamo.config.recompile_limit} forms of one function and met yet another, and would run "
            "uncompiled from there on; leave compiling off for this model"
        ) from limit


def compile_in_place(
    model: nn.Module, situation: Situation, freezing: bool, options: dict[str, Any] | None = None
) -> Applied:
    """Fill the compiled slot. A decode's cache grows, so sizes may become symbolic; elsewhere each is fixed."""
    dynamic = None if situation.workload.kind == "decode" else False
    model._compiled_call_impl = CompiledCall(model, dynamic, freezing, options=options)  # type: ignore[assignment]
    sizes = "sizes that change become symbolic" if dynamic is None else "for fixed sizes"
    weights = ", weights frozen as constants" if freezing else ""
    tuned = f", {', '.join(options)}" if options else ""
    return Applied(model, (f"the call of {type(model).__name__} is compiled by torch.compile {sizes}{weights}{tuned}",))


@cache
def no_compiler_reason(device: str) -> str | None:
    """Why kernels cannot be generated for this device; None when they can."""
    if device.startswith("cuda"):
        return _no_triton_reason()
    from torch._inductor.cpp_builder import get_cpp_compiler  # late: importing the compiler costs seconds

    try:
        compiler = get_cpp_compiler()
        subprocess.run(
            [compiler, "-x", "c++", "-std=c++17", "-fsyntax-only", "-"],
            input=b"#include <vector>\nint main() { return 0; }\n",
            capture_output=True,
            check=True,
            timeout=60,
        )
    except Exception as error:  # the compiler search raises classes of its own, which vary with the version
        first = (str(error).splitlines() or [""])[0]
        return f"no working C++ compiler was found ({type(error).__name__}: {first}); install g++ or set CXX"
    return None


def _no_triton_reason() -> str | None:
    from torch.utils._triton import has_triton

    return None if has_triton() else "torch.compile needs Triton on a GPU and it is not installed or finds no GPU"


COMPILE = Method(
    Setting(
        name="compile",
        sentence="torch.compile generates fused kernels for the model; the first call pays for the compilation.",
        stage=90,
        exact=True,
        expected_cost_s=35.0,
        references=("https://dl.acm.org/doi/10.1145/3620665.3640366",),
        compiles=True,
    ),
    apply=lambda model, situation: compile_in_place(model, situation, freezing=False),
    unavailable=lambda device: no_compiler_reason(device),
)
COMPILE_FREEZING = Method(
    Setting(
        name="compile_freezing",
        sentence="torch.compile with weights frozen as constants, so that they can be prepacked and folded.",
        stage=90,
        exact=True,
        expected_cost_s=40.0,
        references=("https://dl.acm.org/doi/10.1145/3620665.3640366",),
        compiles=True,
    ),
    apply=lambda model, situation: compile_in_place(model, situation, freezing=True),
    unavailable=lambda device: no_compiler_reason(device),
)
COMPILE_MAX_AUTOTUNE = Method(
    Setting(
        name="compile_max_autotune",
        sentence="torch.compile tries several kernels for each product and convolution and keeps the fastest.",
        stage=90,
        exact=True,
        expected_cost_s=70.0,
        references=("https://dl.acm.org/doi/10.1145/3620665.3640366",),
        compiles=True,
        on_request="it tries kernels at every first call, and on a CPU what it chose was not faster than compile",
    ),
    apply=lambda model, situation: compile_in_place(model, situation, freezing=False, options={"max_autotune": True}),
    unavailable=lambda device: no_compiler_reason(device),
)
