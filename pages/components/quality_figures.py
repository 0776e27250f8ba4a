"""The figures beside a task's metric: likelihood, agreement with the untouched model, and whatever a task adds.

A task names its own further figures ("violation_rate"), so nothing here lists them: a name becomes a label, its twin
`baseline_<name>` stands in the same line, and what is called a share is shown as a percentage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pages.components.format import is_number, one_line, percent

BASELINE = "baseline_"
LABELS = {
    "nll_nats": "Negative log-likelihood (nats)",
    "kl_nats": "KL divergence from the untouched model (nats)",
    "top1_agreement": "Same top answer as the untouched model",
    "equal_answers": "Same answer as the untouched model",
    "relative_error": "Relative difference from the untouched model",
    "largest_difference": "Largest difference of an answer on held-out rows",
    "cosine": "Cosine between its answers and the untouched model's",
    "sqnr_db": "Signal to noise of the difference (dB)",
}
SHARES = ("_agreement", "_answers", "_error", "_rate", "_share", "_accuracy")


def quality_figures(details: Mapping[str, Any]) -> dict[str, str]:
    """Label to text, in the order in which they were measured.

    >>> quality_figures({"violation_rate": 0.02, "baseline_violation_rate": 0.01, "kl_nats": 0.00123})
    {'Violation rate': '2.0 %, baseline 1.0 %', 'KL divergence from the untouched model (nats)': '0.00123'}
    """
    figures = {}
    for name, value in details.items():
        if name.startswith(BASELINE) and name.removeprefix(BASELINE) in details:
            continue
        twin = details.get(BASELINE + name)
        baseline = f", baseline {_figure(name, twin)}" if twin is not None else ""
        figures[_label(name)] = _figure(name, value) + baseline
    return figures


def rows_used(environment: Mapping[str, Any]) -> dict[str, str]:
    """How many held-out rows were asked and why no more, for example 'decided after 32 of 384 rows: ...'.

    >>> rows_used({"quality": {"stopped": "all 64 rows were used"}})
    {'Held-out rows': 'all 64 rows were used'}
    """
    told = environment.get("quality")
    stopped = told.get("stopped") if isinstance(told, Mapping) else None
    return {"Held-out rows": one_line(stopped)} if stopped else {}


def _label(name: str) -> str:
    words = one_line(LABELS.get(name, name.replace("_", " ")))
    return words[:1].upper() + words[1:]


def _figure(name: str, value: Any) -> str:
    if not is_number(value):
        return "not measured"
    return percent(value) if name.endswith(SHARES) else f"{value:.4g}"
