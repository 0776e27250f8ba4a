"""What a row of the tables of architectures says; the tables are in `text_families` and `image_families`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid_core.models.brought import config_checks as c

CAUSAL, STATES, TOKEN_LOGITS, LOGITS = "causal", "states", "token_logits", "logits"
TEXT, IMAGE = "text", "image"

# What every transformer of the tables has.
TRUNK: dict[str, c.Check] = {
    "hidden_size": c.SIZE,
    "num_hidden_layers": c.LAYERS,
    "num_attention_heads": c.HEADS,
    "intermediate_size": c.SIZE,
}


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    `keys` are passed on after their check. `architectures` maps a class name to what its forward gives: logits of every
    token (`causal`, `token_logits`), of the whole input (`logits`), or hidden states (`states`).
    """

    config_class: str
    architectures: Mapping[str, str]
    keys: Mapping[str, c.Check]
    reads: str = TEXT
    fixed: Mapping[str, c.Check] = field(default_factory=dict)
    skipped: frozenset[str] = frozenset()
