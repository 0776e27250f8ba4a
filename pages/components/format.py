"""Numbers, times and names as people read them; pure functions, standard library only.

Every ratio carries its interval, every time its unit, and every text that came from outside (notes, reasons, names of
models) passes `plain` before it meets Markdown, `chart_text` before it meets Plotly and `csv_safe` before it leaves as
a file, so a hostile name stays a name.
"""

from __future__ import annotations

import html
import math
import re
import time
from datetime import datetime
from typing import Any

from hybrid_core.records import BASELINE_KEY, Recipe

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
# What each failing outcome means to the person reading; the trial's own reason follows it.
OUTCOME_WORDS = {
    "ok": "measured",
    "wrong": "wrong outputs",
    "unstable": "unstable measurement",
    "crashed": "crashed",
    "timeout": "took too long",
    "out_of_memory": "out of memory",
    "unsupported": "unsupported here",
    "invalid_input": "invalid input",
    "cancelled": "cancelled",
    "worker_lost": "worker lost",
    "device_lost": "device lost",
}
PURPOSE_WORDS = {"baseline": "A/A check", "search": "search", "final": "final race", "repeat": "repetition"}
OBJECTIVE_WORDS = {
    "speed": ("faster", "slower"),
    "memory": ("smaller", "larger"),
    "accuracy": ("more accurate", "less accurate"),
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|$<>~:^=&])")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")


def is_number(value: Any) -> bool:
    """True for a finite number; None, NaN, infinities and text are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def ratio(value: Any, low: Any = None, high: Any = None) -> str:
    """A ratio with its interval.

    >>> ratio(1.2412, 1.2, 1.283)
    '1.24× [1.20, 1.28]'
    >>> ratio(None)
    'not measured'
    """
    if not is_number(value):
        return "not measured"
    text = f"{value:.2f}{TIMES}"
    if is_number(low) and is_number(high) and (low, high) != (value, value):
        text += f" [{low:.2f}, {high:.2f}]"
    return text


def percent(value: Any, low: Any = None, high: Any = None, digits: int = 1) -> str:
    """A share as a percentage with its interval.

    >>> percent(0.998, 0.991, 1.004)
    '99.8 % [99.1, 100.4]'
    """
    if not is_number(value):
        return "not measured"
    text = f"{100 * value:.{digits}f} %"
    if is_number(low) and is_number(high) and (low, high) != (value, value):
        text += f" [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"
    return text


def interval(low: Any, high: Any) -> str:
    """The two ends of a 95 % interval for a table cell; empty when unknown."""
    return f"[{low:.3f}, {high:.3f}]" if is_number(low) and is_number(high) else ""


def duration(seconds: Any) -> str:
    """A span of time.

    >>> [duration(s) for s in (0.42, 12, 125, 7300, None)]
    ['420 ms', '12 s', '2 min 05 s', '2 h 01 min', 'unknown']
    """
    if not is_number(seconds):
        return "unknown"
    if 0 < seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def milliseconds(value: Any) -> str:
    """A latency.

    >>> milliseconds(12.345), milliseconds(0.0123)
    ('12.35 ms', '12.3 µs')
    """
    if not is_number(value):
        return "not measured"
    return f"{value:.2f} ms" if value >= 0.1 else f"{1000 * value:.1f} µs"


def bytes_text(value: Any) -> str:
    """A number of bytes.

    >>> bytes_text(12_900_000), bytes_text(512)
    ('12.3 MiB', '512 B')
    """
    if not is_number(value):
        return "unknown"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(value) >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:.0f} B"


def ago(then: Any, now: float | None = None) -> str:
    """How long ago, in the largest fitting unit.

    >>> ago(100, now=100 + 3 * 3600 + 5), ago(None)
    ('3 h ago', 'never')
    """
    if not is_number(then):
        return "never"
    seconds = (time.time() if now is None else now) - then
    if seconds < 2:
        return "just now"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def clock(then: Any) -> str:
    """The absolute time with its zone, for the hover text beside `ago`."""
    return datetime.fromtimestamp(then).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if is_number(then) else ""


def recipe_text(key: Any) -> str:
    """A recipe's key in words.

    >>> recipe_text("attention_fusion=sdpa+quantization=int8_dynamic")
    'attention fusion: sdpa + quantization: int8_dynamic'
    """
    if not isinstance(key, str) or not key:
        return "unknown"
    if key == BASELINE_KEY:
        return "untouched model"
    try:
        steps = Recipe.from_key(key).steps
    except ValueError:
        return key
    return " + ".join(f"{step.strategy.replace('_', ' ')}: {step.setting}" for step in steps)


def outcome_text(outcome: Any) -> str:
    """An outcome in words; an unknown one is shown as it is."""
    return OUTCOME_WORDS.get(str(outcome), str(outcome))


def verdict_word(objective: str, value: Any, low: Any, high: Any, noise_floor: Any = 0.0) -> str:
    """Better or worse only if the interval excludes 1 and the difference exceeds the A/A noise floor; else a tie.

    >>> verdict_word("speed", 1.2, 1.1, 1.3, 0.02), verdict_word("speed", 1.01, 1.005, 1.02, 0.02)
    ('faster', 'tie')
    """
    if not (is_number(value) and is_number(low) and is_number(high)):
        return "unknown"
    better, worse = OBJECTIVE_WORDS[objective]
    floor = noise_floor if is_number(noise_floor) else 0.0
    if low <= 1 <= high or abs(value - 1) <= floor:
        return "tie"
    return better if value > 1 else worse


def sentence(text: Any, limit: int = 300) -> str:
    """Text from outside as a Markdown-safe sentence: capital first, full stop last; "" stays "".

    >>> sentence("measuring pairs")
    'Measuring pairs.'
    """
    flat = one_line(text, limit)
    if not flat:
        return ""
    # A recipe's key keeps its spelling, because people paste it.
    first = flat[0] if "=" in flat.split(" ", 1)[0] else flat[0].upper()
    return plain(first + flat[1:], limit) + ("" if flat.endswith((".", "!", "?")) else ".")


def said_verdict(result: Any, objective: str) -> str:
    """The verdict the search itself reached, in words; "" where it recorded none.

    >>> said_verdict({"verdicts": {"speed": "better"}}, "speed")
    'faster'
    """
    verdicts = result.get("verdicts") if isinstance(result, dict) else None
    said = verdicts.get(objective) if isinstance(verdicts, dict) else None
    better, worse = OBJECTIVE_WORDS[objective]
    return {"better": better, "worse": worse, "tie": "tie"}.get(str(said), "")


def plain(text: Any, limit: int = 300) -> str:
    """Text from outside, made harmless for Markdown: one line, no markup, no invisible characters, at most `limit`.

    >>> plain("**bold** [x](javascript:1)")
    '\\\\*\\\\*bold\\\\*\\\\* \\\\[x\\\\]\\\\(javascript\\\\:1\\\\)'
    """
    return _MARKDOWN.sub(r"\\\1", one_line(text, limit))


def chart_text(text: Any, limit: int = 160) -> str:
    """Text from outside, made harmless for Plotly, which reads a subset of HTML in labels and hover boxes."""
    return html.escape(one_line(text, limit))


def one_line(text: Any, limit: int = 300) -> str:
    """Text without line breaks, control or direction characters, cut at `limit` with an ellipsis."""
    flat = " ".join(_UNPRINTABLE.sub(" ", "" if text is None else str(text)).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def csv_safe(value: Any) -> Any:
    """A table cell that no spreadsheet runs as a formula: text starting like one gets a leading apostrophe.

    >>> csv_safe("=HYPERLINK(1)"), csv_safe(-1.5)
    ("'=HYPERLINK(1)", -1.5)
    """
    if isinstance(value, str) and value.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return "'" + value
    return value
