"""The folder's README as a model card: what was measured, where, when, how sure, and what is not known.

Every text in it may come from outside (names of models, warnings, sentences), so each is put on one line and escaped:
nothing can become a link, an image, HTML or a new section.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_core.records import BASELINE_KEY

RATIOS = {
    "speed_improvement": "speed (untouched time / optimized time)",
    "memory_efficiency": "memory (untouched peak / optimized peak)",
    "accuracy_preservation": "accuracy kept (optimized / untouched)",
}
TIMES = {"baseline_latency_ms": "time of one call, untouched", "latency_ms": "time of one call, optimized"}
BYTES = {
    "baseline_peak_bytes": "peak bytes, untouched",
    "peak_bytes": "peak bytes, optimized",
    "baseline_weight_bytes": "bytes of weights, untouched",
    "weight_bytes": "bytes of weights, optimized",
}
ENVIRONMENT = ("device", "cpu_model", "gpu", "cpu_flags", "threads", "platform", "quantized_engine")
UNKNOWN = "not measured"


def card_of(data: Mapping[str, Any], changes: Sequence[str], index: Mapping[str, Any], packages: Sequence[str]) -> str:
    """The card as Markdown."""
    run, tensors = _mapping(data.get("run")), _mapping(index.get("tensors"))
    stored = sum(1 for facts in tensors.values() if facts["stored"] is not None)
    return "\n".join(
        [
            f"# {plain(run.get('model'))}, optimized",
            "",
            f"Recipe: {plain(data.get('key') or BASELINE_KEY)}. Every figure below was measured, beside the untouched "
            "model and in the same process; nothing is assumed.",
            "",
            *_how_to_start(_mapping(data.get("environment"))),
            *_section("What was measured", _table(("figure", "value", "95 % interval"), _figures(data))),
            *_section("On what", _table(("fact", "value"), _facts(data, run))),
            *_section("What was changed in the model", _list(changes)),
            *_section("Warnings of the measurement", _list(data.get("warnings") or ())),
            *_section("What is not known", _list(_unknowns(data))),
            *_section("What is in this folder", _contents(stored, len(tensors), packages)),
            *_section("Use and check it", _usage()),
        ]
    )


def _how_to_start(environment: Mapping[str, Any]) -> list[str]:
    """For a recipe that needs variables which a process reads once: which, and where the times come from then."""
    needed = environment.get("start_variables")
    if not isinstance(needed, Mapping):
        return []
    values = " ".join(f"{name}={value}" for name, value in sorted(needed.items()))
    where = (
        "these variables change every model of a process, so the times of the untouched one come from another process"
    )
    return [f"Start Python with {plain(values)}, also to check this folder: {where}.", ""]


def plain(value: Any, most: int = 400) -> str:
    r"""Text from outside as one line of Markdown that means nothing but itself.

    >>> plain("a *b* <img src=x> [c](d)")
    'a \\*b\\* &lt;img src=x&gt; \\[c\\](d)'
    """
    text = "" if value is None else str(value)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:most]
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]#!|~$])", r"\\\1", text)
    # Readers make links of bare addresses; a zero-width break after the colon stops that.
    return re.sub(r"(?i)\b(https?|ftp|mailto|www)([:.])", "\\1\u200b\\2", text).replace("@", "&#64;")


def _figures(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    figures, counts = _mapping(data.get("figures")), _mapping(data.get("counts"))
    rows = [(name, *_estimate(figures.get(key), "")) for key, name in RATIOS.items()]
    rows += [(name, *_estimate(figures.get(key), " ms")) for key, name in TIMES.items()]
    rows += [(name, _count(counts.get(key)), "counted") for key, name in BYTES.items() if key in counts]
    error = counts.get("max_abs_error")
    rows.append(("largest difference of an output", f"{error:.3g}" if _is_number(error) else UNKNOWN, ""))
    quality = _mapping(data.get("quality"))
    if quality:
        for key, who in (("baseline_value", "untouched"), ("value", "optimized")):
            rows.append((f"{plain(quality.get('metric'), 80)}, {who}", *_estimate(quality.get(key), "")))
    return rows


def _facts(data: Mapping[str, Any], run: Mapping[str, Any]) -> list[tuple[str, str]]:
    environment, versions = _mapping(data.get("environment")), _mapping(data.get("versions"))
    ended = run.get("ended_at")
    workload = _mapping(run.get("workload"))
    rows = [
        ("run", plain(run.get("run_id") or UNKNOWN)),
        ("date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ended)) if _is_number(ended) else UNKNOWN),
        ("model", f"{plain(run.get('model'))} {plain(run.get('size'))}, seed {plain(run.get('seed'))}"),
        ("workload", ", ".join(f"{plain(k)} {plain(v)}" for k, v in workload.items()) or UNKNOWN),
        ("versions", ", ".join(f"{plain(k)} {plain(v)}" for k, v in versions.items()) or UNKNOWN),
    ]
    known = [(key.replace("_", " "), environment[key]) for key in ENVIRONMENT if environment.get(key) not in (None, [])]
    shown = [(k, plain(", ".join(map(str, v)) if isinstance(v, list | tuple) else v)) for k, v in known]
    return rows + shown


def _unknowns(data: Mapping[str, Any]) -> list[str]:
    quality = _mapping(data.get("quality"))
    unknown = [
        "How it behaves on another processor, card, thread count, batch or length: only the workload above was timed.",
        "What it does to answers that no task here counts.",
    ]
    if not quality:
        unknown.append("Its quality: none was recorded.")
    elif quality.get("metric") == "agreement":
        unknown.append("Its quality on a task: there is none, so accuracy means agreement with the untouched model.")
    if not data.get("figures"):
        unknown.append("Its speed and memory: the run recorded no figures.")
    return unknown


def _contents(stored: int, tensors: int, packages: Sequence[str]) -> list[str]:
    rows = [
        ("recipe.json", "the recipe with figures, versions and device; what apply\\_recipe takes"),
        ("model.safetensors", f"the {stored} tensors that the recipe changed, of {tensors} that the model holds"),
        ("weights.json", "dtype, shape and SHA-256 of every tensor of the optimized model"),
        *((name, "a package the recipe made; code, run only when you ask for it") for name in packages),
        ("verify.py", "checks all of this on your machine and measures again"),
        ("manifest.json", "size and SHA-256 of every file; it finds damage, it is no signature"),
    ]
    return _table(("file", "what it is"), rows)


def _usage() -> list[str]:
    return [
        "```python",
        "from hybrid_core.export import load_folder",
        "",
        'model = load_folder("path/of/this/folder")',
        "```",
        "",
        "```",
        "python verify.py",
        "```",
    ]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _list(texts: Sequence[Any]) -> list[str]:
    return [f"- {plain(text)}" for text in texts] or ["None."]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [" | ".join(cells).join(("| ", " |")) for cells in (head, ("---",) * len(head), *rows)]


def _estimate(found: Any, unit: str) -> tuple[str, str]:
    facts = _mapping(found)
    if not all(_is_number(facts.get(key)) for key in ("value", "low", "high")):
        return UNKNOWN, ""
    exact = facts["low"] == facts["high"]
    return f"{facts['value']:.4g}{unit}", "exact" if exact else f"{facts['low']:.4g} to {facts['high']:.4g}"


def _count(value: Any) -> str:
    return f"{value:,}" if _is_number(value) else UNKNOWN


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
