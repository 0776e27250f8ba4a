"""What a value in a brought `config.json` may be: one small function per kind, each refusing with the key's name.

A check gets the key and the value and returns the value that the configuration class will see. Bounds are far beyond
any published model; they exist so that a number cannot stall or overflow what is built from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.strict_json import is_whole

Check = Callable[[str, Any], Any]

ACTIVATIONS = (
    "gelu",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_pytorch_tanh",
    "leaky_relu",
    "mish",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
)
ATTENTION_KINDS = ("full_attention", "sliding_attention")
ROPE_KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
ROPE_NUMBERS = (
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "partial_rotary_factor",
)
ROPE_LISTS = ("short_factor", "long_factor")
LARGEST = 1e15


def whole(low: int, high: int) -> Check:
    """A whole number from low to high."""

    def check(key: str, value: Any) -> Any:
        if not is_whole(value) or not low <= value <= high:
            raise refusal(key, value, f"a whole number from {low:,} to {high:,}")
        return value

    return check


def number(low: float = 0.0, high: float = LARGEST) -> Check:
    """A finite number from low to high."""

    def check(key: str, value: Any) -> Any:
        is_number = is_whole(value) or isinstance(value, float)
        if not is_number or not low <= value <= high or not math.isfinite(value):
            raise refusal(key, value, f"a number from {low:g} to {high:g}")
        return value

    return check


def flag(key: str, value: Any) -> Any:
    """True or false."""
    if not isinstance(value, bool):
        raise refusal(key, value, "true or false")
    return value


def choice(*names: str) -> Check:
    """One of the given texts."""

    def check(key: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in names:
            raise refusal(key, value, f"one of {', '.join(names)}")
        return value

    return check


def fixed(*values: Any) -> Check:
    """Exactly one of the given values: others would ask for a computation that is not supported here."""

    def check(key: str, value: Any) -> Any:
        if not any(type(value) is type(allowed) and value == allowed for allowed in values):
            raise refusal(key, value, " or ".join(repr(allowed) for allowed in values))
        return value

    return check


def listed(item: Check, longest: int = 1_024) -> Check:
    """A list whose items pass a check."""

    def check(key: str, value: Any) -> Any:
        if not isinstance(value, list) or not 1 <= len(value) <= longest:
            raise refusal(key, value, f"a list of 1 to {longest:,} values")
        return [item(f"{key}[{place}]", entry) for place, entry in enumerate(value)]

    return check


def optional(check: Check) -> Check:
    """Null, or what passes the check."""
    return lambda key, value: None if value is None else check(key, value)


def rope(key: str, value: Any) -> Any:
    """Rotary parameters: known names with numbers, or one such object per attention kind."""
    if not isinstance(value, dict):
        raise refusal(key, value, "an object of rotary parameters")
    if value and set(value) <= set(ATTENTION_KINDS):
        return {kind: rope(f"{key}.{kind}", entry) for kind, entry in value.items()}
    return {name: _rope_value(f"{key}.{name}", name, entry) for name, entry in value.items()}


def _rope_value(key: str, name: str, value: Any) -> Any:
    if name in ("rope_type", "type"):
        return choice(*ROPE_KINDS)(key, value)
    if name in ROPE_NUMBERS:
        return optional(number())(key, value)
    if name in ROPE_LISTS:
        return listed(number())(key, value)
    if name == "truncate":
        return flag(key, value)
    raise refusal(key, value, "left out: it is no rotary parameter that is known here")


def refusal(key: str, value: Any, allowed: str) -> InvalidInput:
    """The sentence for a value of config.json that is not allowed."""
    return InvalidInput(f"config.json: {key[:120]}={value!r:.80} is not allowed; it must be {allowed}")


SIZE = whole(1, 1_000_000)
LAYERS = whole(1, 1_000)
HEADS = whole(1, 4_096)
VOCABULARY = whole(2, 16_777_216)
POSITIONS = whole(1, 134_217_728)
TOKEN = optional(whole(-1, 16_777_216))
ACTIVATION = choice(*ACTIVATIONS)
EPSILON = number(0.0, 1.0)
