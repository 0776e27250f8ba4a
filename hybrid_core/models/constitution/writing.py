"""Samples lines of text from a decoder with critique heads: with a cache, or in windows of one shape without.

Noise decides a sampled text: it is drawn for each job from the job's own seed, and each byte is the largest logit plus
its Gumbel noise. So a text depends on model, prompt and seed only, not on its batch, and two nearly equal models write
nearly the same: their rates differ by what differs between them and not by luck.

With a cache each byte costs one small pass, but every pass has another length, and a compiled model would be compiled
for each. Such a model reads whole windows of one shape instead, and the text is found by fixed-point iteration (Song et
al. 2021, Accelerating feedforward computation via parallel nonlinear equation solving): guess all bytes, ask for all of
them at once, correct from the first wrong one. A right guess costs one pass, a wrong one passes but never the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.models.constitution.dialogue import NEWLINE, WINDOW_BYTES, WRITTEN_BYTES, filled_prompts, written_text

BYTES = 256
WINDOWS_AT_ONCE = 4


@dataclass(frozen=True)
class Job:
    """One line to write after a prompt; `guess` is only about speed."""

    prompt: str
    seed: int
    guess: str = ""

    def noise(self) -> Tensor:
        """(WRITTEN_BYTES, BYTES) Gumbel noise."""
        uniform = torch.rand(WRITTEN_BYTES, BYTES, generator=torch.Generator().manual_seed(self.seed))
        return uniform.clamp_min(1e-20).log().neg().log().neg()


@dataclass(frozen=True)
class Written:
    """A line and what the heads say of it: harmless times helpful, between 0 and 1."""

    text: str
    approval: float


def write(model: nn.Module, jobs: Sequence[Job], prompt_bytes: int, temperature: float) -> list[Written]:
    """Write all jobs; their prompts are filled up to `prompt_bytes` on the left."""
    prompts = filled_prompts([job.prompt for job in jobs], prompt_bytes)
    if reads_one_shape_only(model):
        return _write_in_windows(model, jobs, prompts, temperature)
    return _write_with_cache(model, jobs, prompts, temperature)


def reads_one_shape_only(model: nn.Module) -> bool:
    """Whether calls of ever new lengths must be avoided: the call is compiled, or there is no cache to be had."""
    compiled = getattr(model, "_compiled_call_impl", None) is not None or hasattr(model, "_orig_mod")
    return compiled or not hasattr(model, "cache_factory")


@torch.no_grad()
def _write_with_cache(model: nn.Module, jobs: Sequence[Job], prompts: Tensor, temperature: float) -> list[Written]:
    """All jobs as one batch, byte by byte; the heads are read where the newline is read back."""
    noise, device = torch.stack([job.noise() for job in jobs]), device_of(model)
    make_cache: Any = model.cache_factory
    cache = make_cache(prompts.shape[0], prompts.shape[1] + WRITTEN_BYTES)
    logits, critique = model(prompts.to(device), cache=cache)
    written = torch.full((len(jobs), WRITTEN_BYTES), NEWLINE)
    verdicts, unfinished = torch.zeros(len(jobs), 2), torch.ones(len(jobs), dtype=torch.bool)
    for position in range(WRITTEN_BYTES):
        sampled = (logits[:, -1].float().cpu() / temperature + noise[:, position]).argmax(-1)
        written[:, position] = token = torch.where(unfinished, sampled, NEWLINE)
        logits, critique = model(token[:, None].to(device), cache=cache)
        verdicts[unfinished] = critique[:, -1].float().cpu()[unfinished]
        unfinished &= token != NEWLINE
        if not unfinished.any():
            break
    return [_judged(row, verdict) for row, verdict in zip(written, verdicts, strict=True)]


@dataclass
class _Window:
    """A job being settled: the window that holds its prompt and the guess, and its noise."""

    place: int
    tokens: Tensor
    noise: Tensor


def _write_in_windows(model: nn.Module, jobs: Sequence[Job], prompts: Tensor, temperature: float) -> list[Written]:
    """A few windows at a time; a settled one makes room for the next job, and empty places are filled with copies."""
    start, done = prompts.shape[1], dict[int, Written]()
    waiting, open_windows = _windows(jobs, prompts), list[_Window]()
    while len(done) < len(jobs):
        while len(open_windows) < WINDOWS_AT_ONCE and (window := next(waiting, None)) is not None:
            open_windows.append(window)
        logits, critique = _read_windows(model, open_windows)
        for row, window in enumerate(tuple(open_windows)):
            sampled = (logits[row, start - 1 : start - 1 + WRITTEN_BYTES] / temperature + window.noise).argmax(-1)
            end = _settle(window.tokens[start : start + WRITTEN_BYTES], sampled)
            if end is not None:
                line = window.tokens[start : start + WRITTEN_BYTES]
                done[window.place] = _judged(line, critique[row, start + end])
                open_windows.remove(window)
    return [done[place] for place in range(len(jobs))]


def _settle(guess: Tensor, sampled: Tensor) -> int | None:
    """Where the line ends if the guess is confirmed up to there; else None, after correcting the guess in place."""
    wrong = (guess != sampled).nonzero().flatten()
    newlines = (guess == NEWLINE).nonzero().flatten()
    first_wrong = int(wrong[0]) if len(wrong) else len(guess)
    end = int(newlines[0]) if len(newlines) else len(guess) - 1
    if end < first_wrong:
        return end
    guess[first_wrong:] = sampled[first_wrong:]
    return None


def _windows(jobs: Sequence[Job], prompts: Tensor) -> Iterator[_Window]:
    for place, (job, prompt) in enumerate(zip(jobs, prompts, strict=True)):
        guess = f" {job.guess}".encode("latin-1", errors="replace")[:WRITTEN_BYTES]
        tokens = torch.full((WINDOW_BYTES,), NEWLINE)
        tokens[: len(prompt)] = prompt
        tokens[len(prompt) : len(prompt) + len(guess)] = torch.tensor(list(guess))
        yield _Window(place, tokens, job.noise())


@torch.no_grad()
def _read_windows(model: nn.Module, windows: Sequence[_Window]) -> tuple[Tensor, Tensor]:
    rows = [windows[row % len(windows)].tokens for row in range(WINDOWS_AT_ONCE)]
    logits, critique = model(torch.stack(rows).to(device_of(model)))
    return logits.float().cpu(), critique.float().cpu()


def _judged(line: Tensor, verdict: Tensor) -> Written:
    return Written(written_text(line), float(verdict.prod()))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are; a quantized model may keep them all in buffers."""
    held = next((tensor for tensor in (*model.parameters(), *model.buffers())), None)
    return torch.device("cpu") if held is None else held.device
