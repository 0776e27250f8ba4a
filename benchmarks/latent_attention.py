"""What absorbing is worth: the attention of one DeepSeek decode step, on three kinds of cache.

Question: how much faster is a step that attends to cached latents (`attention_fusion=mla_absorb`) than one that keeps
expanded keys and values, as a cache of plain multi-head attention would, and how much smaller is the cache?

Method: one latent attention of the registry with 16 heads, latent 512, rotary 64, plain 128, value 128 and a hidden
width of 2,048 (random weights, float32), a context that is already cached, one new token. Three forms on the same
weights: *expanded* caches the keys and values of every head and expands only the new token, *re-expanded* is the
untouched module, *absorbed* is the module after the strategy. Timed is the *attention*, from queries and the new latent
to the mixed heads with cache, expansion or absorption; and the whole *module*, with the projections from and to the
hidden state, which are the same work in every form. Caches are preallocated, so that no form pays for copies; rows
marked "growing" copy as a `torch.cat` cache does. The forms take turns, the order reversed every round, with a fresh
hidden state each; the slow re-expanded form takes part in two rounds of ten. The ratio is the median over blocks of two
rounds with its 95 % bootstrap interval. Outputs are compared before anything is timed. The targets are about the
attention on preallocated caches. One thread.

    make bench-latent-attention            contexts of 512 and 2,048 tokens, 120 rounds
    make bench-latent-attention QUICK=1    2,048 tokens, 20 rounds
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hybrid_core.measurement.machine import describe_versions  # noqa: E402
from hybrid_core.measurement.statistics import median_of_blocks, ratio_of_pairs  # noqa: E402
from hybrid_core.models.parts.blocks import Cache, GrowingCache  # noqa: E402
from hybrid_core.models.parts.latent_attention import LatentAttention, LatentWidths, rotate_neighbours  # noqa: E402
from hybrid_core.models.parts.rotary import rotary_table  # noqa: E402
from hybrid_core.records import Workload  # noqa: E402
from hybrid_core.strategies.base import Situation  # noqa: E402
from hybrid_core.strategies.registry import get_strategy  # noqa: E402
from workers.devices import cpu_title  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "latent-attention.json"
DIM, WIDTHS = 2048, LatentWidths(heads=16, latent=512, plain=128, rope=64, value=128)
TARGET_CONTEXT, TARGET_SPEED, TARGET_CACHE = 2048, 2.0, 8.0
FORMS, PARTS = ("expanded", "re-expanded", "absorbed"), ("attention", "module")
SLOW = "re-expanded"  # takes part in two rounds of ten
WARM_UP = 6


class Decoding(nn.Module):
    """One latent attention with its rotary table and causal mask, called as a decoder calls it."""

    def __init__(self, attention: LatentAttention, longest: int) -> None:
        super().__init__()
        self.attention = attention
        self.cos, self.sin = rotary_table(WIDTHS.rope, longest, 10_000.0)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        """Hidden states (1, new, DIM) after what the cache holds to the same."""
        cos, sin, mask = self.positions(x, cache)
        mixed: Tensor = self.attention(x, cos, sin, mask, 0, cache)
        return mixed

    def positions(self, x: Tensor, cache: Cache) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the rotary table and the causal mask."""
        start, end = cache.length, cache.length + x.shape[1]
        mask = torch.full((x.shape[1], end), float("-inf")).triu(start + 1)
        return self.cos[start:end], self.sin[start:end], mask

    def operands(self, x: Tensor, cache: Cache) -> tuple[Tensor, ...]:
        """What `attend` works on: queries, the new latent, its rotary key and the mask."""
        cos, sin, mask = self.positions(x, cache)
        latent, rope_key = torch.split(self.attention.compress(x)[:, None], [WIDTHS.latent, WIDTHS.rope], dim=-1)
        q = self.attention._queries(x, cos, sin)
        return q, self.attention.latent_norm(latent), rotate_neighbours(rope_key, cos, sin), mask

    def attend(self, q: Tensor, latent: Tensor, rope_key: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """What the module's forward does between its projections, by the module's own parts."""
        if isinstance(self.attention, ExpandedCacheAttention):
            k, v = cache.append(0, *self.attention._keys_and_values(latent, rope_key))
        else:
            k, v = self.attention._keys_and_values(*cache.append(0, latent, rope_key))
        mixed: Tensor = self.attention.core(q, k, v, mask)
        return mixed


class ExpandedCacheAttention(LatentAttention):
    """The same attention, but what goes into the cache are the keys and values of every head."""

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, layer: int = 0, cache: Cache | None = None
    ) -> Tensor:
        """As the class above, from the parts of the class above."""
        assert cache is not None, "this form exists to be cached"
        latent, rope_key = torch.split(self.compress(x)[:, None], [WIDTHS.latent, WIDTHS.rope], dim=-1)
        k, v = self._keys_and_values(self.latent_norm(latent), rotate_neighbours(rope_key, cos, sin))
        mixed = self.core(self._queries(x, cos, sin), *cache.append(layer, k, v), mask)
        merged: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return merged


class Remembering(GrowingCache):
    """A growing cache of one layer that shows what it holds."""

    everything: tuple[Tensor, Tensor]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As the class above."""
        self.everything = super().append(layer, k, v)
        return self.everything


class CacheAt:
    """A cache that stands at the same token for every call: the last row is written again, or copied behind the rest.

    Not the strategy's own cache, because a step must be repeatable: the same rows, whoever reads them.
    """

    def __init__(self, keys: Tensor, values: Tensor, grows: bool) -> None:
        self.keys, self.values, self.grows = keys, values, grows
        self.length = keys.shape[2] - 1

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Everything with the new token last."""
        if self.grows:
            return torch.cat((self.keys[:, :, :-1], k), dim=2), torch.cat((self.values[:, :, :-1], v), dim=2)
        self.keys[:, :, -1:], self.values[:, :, -1:] = k, v
        return self.keys, self.values

    @property
    def bytes_held(self) -> int:
        """Of this layer."""
        return sum(t.numel() * t.element_size() for t in (self.keys, self.values))


def main() -> None:
    """Measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one context, 20 rounds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    contexts, rounds = ((TARGET_CONTEXT,), 20) if quick else ((512, TARGET_CONTEXT), 120)
    with torch.inference_mode():
        models, changes = build_forms(max(contexts))
        races = product(contexts, PARTS, (False, True))
        rows = [row for context, part, grows in races for row in race(models, context, part, grows, rounds)]
    targets = judge(rows)
    for target in targets:
        print(f"{target['name']}: {target['value']:.2f} (target {target['target']}, met: {target['met']})")
    environment = {**describe_versions(), "cpu": cpu_title(), "threads": 1, "rounds": rounds, "changes": changes}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    found = {"environment": environment, "targets": targets, "rows": rows}
    RESULTS.write_text(json.dumps(found, indent=0, allow_nan=False))
    print(f"written to {RESULTS.relative_to(ROOT)}")


def build_forms(longest: int) -> tuple[dict[str, Decoding], tuple[str, ...]]:
    """The three forms on the same weights, and what the strategy says it changed."""
    torch.manual_seed(0)
    plain = Decoding(LatentAttention(DIM, WIDTHS), longest).eval().requires_grad_(False)
    expanded = copy.deepcopy(plain)
    expanded.attention.__class__ = ExpandedCacheAttention
    context = torch.randn(1, 32, DIM)
    situation = Situation((context,), decode_two, Workload("decode", "decode", 1, 31, 1))
    applied = get_strategy("attention_fusion").apply("mla_absorb", copy.deepcopy(plain), situation)
    assert isinstance(applied.model, Decoding), "the strategy changes the module in place"
    return dict(zip(FORMS, (expanded, plain, applied.model), strict=True)), applied.changes


def decode_two(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """A context and one token after it: the example that the strategy is proven on."""
    cache = GrowingCache(1)
    first = model(inputs[0][:, :-1], cache)
    return torch.cat((first, model(inputs[0][:, -1:], cache)), dim=1)


def race(models: dict[str, Decoding], context: int, part: str, grows: bool, rounds: int) -> list[dict[str, Any]]:
    """Time the forms in turns on the same context; one row for each."""
    caches = {name: filled_cache(model, context, grows) for name, model in models.items()}
    compare(models, caches)
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMS}
    for number in range(WARM_UP + rounds):
        x = torch.randn(1, 1, DIM, generator=torch.Generator().manual_seed(number))
        taking_part = [name for name in FORMS if name != SLOW or number % 10 < 2]
        spent = {n: clock_ms(models[n], x, caches[n], part) for n in taking_part[:: 1 if number % 2 else -1]}
        for name, ms in spent.items():
            pairs[name] += [(spent["expanded"], ms)] if number >= WARM_UP else []
    rows = [as_row(name, context, part, grows, pairs[name], caches) for name in FORMS]
    for row in rows:
        speed, cache = row["speed_against_expanded"], row["cache"]
        shown = f"x{speed['value']:.2f} ({speed['low']:.2f} to {speed['high']:.2f})"
        print(
            f"{context:>5} {part:9} {cache:12} {row['form']:12} {row['median_ms']['value']:8.2f} ms {shown:24}", end=""
        )
        print(f"{row['cache_bytes'] / 1e6:8.2f} MB, {row['cache_times_smaller']:.1f}x smaller", flush=True)
    return rows


def filled_cache(model: Decoding, context: int, grows: bool) -> CacheAt:
    """What this form keeps after reading `context` tokens, the last of which is written again by every call."""
    cache = Remembering(1)
    states = torch.randn(1, context, DIM, generator=torch.Generator().manual_seed(7))
    for start in range(0, context, 256):
        model(states[:, start : start + 256], cache)
    return CacheAt(*cache.everything, grows)


def compare(models: dict[str, Decoding], caches: dict[str, CacheAt]) -> None:
    """Refuse to time forms that do not compute the same."""
    x = torch.randn(1, 1, DIM, generator=torch.Generator().manual_seed(11))
    expected = models["re-expanded"](x, caches["re-expanded"])
    for name in FORMS:
        torch.testing.assert_close(models[name](x, caches[name]), expected, rtol=1e-3, atol=1e-5)


def clock_ms(model: Decoding, x: Tensor, cache: CacheAt, part: str) -> float:
    """Wall time of one step of the whole module or of its attention."""
    operands = model.operands(x, cache)
    start = time.perf_counter()
    if part == "module":
        model(x, cache)
    else:
        model.attend(*operands, cache)
    return (time.perf_counter() - start) * 1e3


def as_row(
    name: str, context: int, part: str, grows: bool, pairs: list[tuple[float, float]], caches: dict[str, CacheAt]
) -> dict[str, Any]:
    """One form's figures with its raw samples: pairs of the expanded form's time and its own."""
    speed, median = ratio_of_pairs(pairs), median_of_blocks([own for _, own in pairs])
    return {
        "form": name,
        "context": context,
        "part": part,
        "cache": "growing" if grows else "preallocated",
        "median_ms": {"value": median.value, "low": median.low, "high": median.high},
        "speed_against_expanded": {"value": speed.value, "low": speed.low, "high": speed.high},
        "cache_bytes": caches[name].bytes_held,
        "cache_times_smaller": caches["expanded"].bytes_held / caches[name].bytes_held,
        "pairs_ms": [[round(value, 4) for value in pair] for pair in pairs],
    }


def judge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The targets, on preallocated caches, where the expanded form does best."""
    row = next(
        r for r in rows if r["form"] == "absorbed" and r["context"] == TARGET_CONTEXT and r["cache"] != "growing"
    )
    speed, smaller = row["speed_against_expanded"]["value"], row["cache_times_smaller"]
    return [
        {"name": f"absorbed against the expanded cache at {TARGET_CONTEXT} tokens, times faster", "value": speed,
         "target": TARGET_SPEED, "met": speed >= TARGET_SPEED},
        {"name": "cache, times smaller than expanded", "value": smaller, "target": TARGET_CACHE,
         "met": smaller >= TARGET_CACHE},
    ]  # fmt: skip


if __name__ == "__main__":
    main()
