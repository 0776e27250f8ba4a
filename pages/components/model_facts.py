"""What is known of a model, as words and table cells; pure functions over the catalog's entries.

A brought model's facts come from outside and may lack anything, so every reader here takes a missing or odd value for
"not known" and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pages.components.format import bytes_text, is_number, one_line, percent

Row = Mapping[str, Any]
Table = dict[str, list[Any]]
DTYPES = ("float32", "bfloat16", "int8", "int4")
NONE = "\N{EN DASH}"
KNOWN_QUALITY = ("metric", "value", "low", "high", "samples", "unit", "trivial", "bits_per_byte", "rates")


def title_of(model: Row) -> str:
    """The name a person reads in a list: the title, or the name somebody gave to what they brought in."""
    if model.get("brought"):
        return f"{one_line(model['name'], 60)} (brought in)"
    return one_line(model.get("title") or model.get("name"), 80)


def accuracy_means(model: Row, size: str) -> str:
    """What accuracy is where no task counts it; empty where one does."""
    facts = facts_of(model, size)
    if model.get("brought"):
        is_counted = is_number(_mapping(facts.get("quality")).get("value"))
        return (
            "" if is_counted else "No labelled file came with it, so accuracy means agreement with the untouched model."
        )
    if facts.get("trained") is False:
        return "Its weights are random, so accuracy means agreement with the untouched model."
    return ""


def facts_of(model: Row, size: str) -> Row:
    """The facts of one size, empty where there are none."""
    return _mapping(_mapping(model.get("facts")).get(size))


def fit_on(model: Row, size: str, device: str) -> Row:
    """Whether a size fits on a device, with figures and a sentence; empty where nobody knows."""
    return _mapping(_mapping(facts_of(model, size).get("fits")).get(device))


def sizes_table(model: Row, devices: Sequence[Row]) -> Table:
    """One row per size: built beside published parameters, bytes by dtype, cache, and where it fits."""
    table = _columnar([_size_cells(model, size, devices) for size in model["sizes"]])
    return {title: column for title, column in table.items() if any(cell != NONE for cell in column)}


def workloads_table(model: Row) -> Table:
    """What may be timed, each workload once with the sizes that have it."""
    holders: dict[tuple[Any, ...], list[str]] = {}
    for size in model["sizes"]:
        for workload in model["workloads"].get(size, []):
            names = ("name", "kind", "batch", "length", "new_tokens")
            holders.setdefault(tuple(workload.get(name) for name in names), []).append(one_line(size, 40))
    cells = [
        {
            "Workload": one_line(name, 60),
            "Kind": one_line(kind, 20),
            "Batch": batch,
            "Length": length or None,
            "New tokens": new_tokens or None,
            "Sizes": ", ".join(sizes),
        }
        for (name, kind, batch, length, new_tokens), sizes in holders.items()
    ]
    table = _columnar(cells)
    return {title: column for title, column in table.items() if any(cell is not None for cell in column)}


def overview_table(models: Sequence[Row], devices: Sequence[Row]) -> Table:
    """Every model in a line."""
    return _columnar([_overview_cells(model, devices) for model in models])


def misfits(model: Row, devices: Sequence[Row]) -> list[str]:
    """A sentence for each size and device that do not go together."""
    found = []
    for size in model["sizes"]:
        for device in devices:
            fit = fit_on(model, size, device["id"])
            if fit.get("fits") is False:
                found.append(f"{size}: {fit.get('sentence')}")
    return found


def quality_of(model: Row) -> tuple[str, Row]:
    """The first size whose quality was counted, and what was counted; ("", {}) where there is none."""
    for size in model["sizes"]:
        quality = _mapping(facts_of(model, size).get("quality"))
        if is_number(quality.get("value")):
            return size, quality
    return "", {}


def quality_figures(quality: Row) -> list[tuple[str, str, str, str]]:
    """(label, value, interval, explanation) of the metric, the trivial answer, bits per byte and further rates."""
    metric = one_line(quality.get("metric") or "quality", 60)
    rows = f"{quality['samples']:,} rows" if is_number(quality.get("samples")) else "held-out data"
    unit = f", one row is a {one_line(quality['unit'], 60)}" if quality.get("unit") else ""
    low, high = quality.get("low"), quality.get("high")
    ends = f"95 %: {100 * low:.1f} to {100 * high:.1f}" if is_number(low) and is_number(high) else ""
    shown = [(_capital(metric), percent(quality.get("value")), ends, f"Counted on {rows}{unit}.")]
    if is_number(quality.get("trivial")):
        text = "What the best answer that ignores the input reaches."
        shown.append(("Trivial answer", percent(quality["trivial"]), "", text))
    if is_number(quality.get("bits_per_byte")):
        text = "Lower is better; it feels damage that accuracy does not."
        shown.append(("Bits per byte", f"{quality['bits_per_byte']:.3f}", "", text))
    rates = {**_mapping(quality.get("rates")), **{k: v for k, v in quality.items() if k not in KNOWN_QUALITY}}
    shown += [
        (_capital(one_line(name, 40).replace("_", " ")), f"{value:.3g}", "", "A further figure of this model.")
        for name, value in rates.items()
        if is_number(value)
    ]
    return shown


def sentences_by_size(model: Row, name: str) -> list[str]:
    """The sentences of a list in the facts, each once, with the sizes it holds for where not for all."""
    holders: dict[str, list[str]] = {}
    for size in model["sizes"]:
        listed = facts_of(model, size).get(name)
        for text in listed if isinstance(listed, list) else []:
            holders.setdefault(one_line(text, 500), []).append(size)
    everywhere = len(model["sizes"])
    return [text if len(sizes) == everywhere else f"{', '.join(sizes)}: {text}" for text, sizes in holders.items()]


def training_facts(model: Row) -> dict[str, str]:
    """How the trained size was trained, as plain pairs; empty where nothing was."""
    for size in model["sizes"]:
        training = _mapping(facts_of(model, size).get("training"))
        if training:
            plain_values = {k: v for k, v in training.items() if isinstance(v, str | int | float) and k != "quality"}
            return {one_line(k, 60).replace("_", " "): one_line(v, 200) for k, v in plain_values.items()}
    return {}


def _size_cells(model: Row, size: str, devices: Sequence[Row]) -> dict[str, Any]:
    facts = facts_of(model, size)
    weights, cached = _mapping(facts.get("weights_bytes")), _mapping(facts.get("kv_cache_bytes_per_token"))
    return {
        "Size": one_line(size, 40),
        "Weights": _weights(model, facts),
        "Parameters": _count(facts.get("parameters")),
        "Published": _count(facts.get("published_parameters")),
        **{dtype: bytes_text(weights[dtype]) if is_number(weights.get(dtype)) else NONE for dtype in DTYPES},
        "Cache per token": bytes_text(cached["float32"]) if is_number(cached.get("float32")) else NONE,
        "A run fits on": _where_it_fits(model, size, devices),
    }


def _weights(model: Row, facts: Row) -> str:
    if model.get("brought"):
        return "its own"
    known = facts.get("trained")
    return "trained" if known is True else "random" if known is False else NONE


def _where_it_fits(model: Row, size: str, devices: Sequence[Row]) -> str:
    known = {device["id"]: fit_on(model, size, device["id"]).get("fits") for device in devices}
    if all(fits is None for fits in known.values()):
        return "not known"
    return ", ".join(device for device, fits in known.items() if fits) or "nothing here"


def _overview_cells(model: Row, devices: Sequence[Row]) -> dict[str, Any]:
    size, quality = quality_of(model)
    largest = model["sizes"][-1]
    fitting = [s for s in model["sizes"] if _where_it_fits(model, s, devices) != "nothing here"]
    return {
        "Model": title_of(model),
        "From": one_line(model.get("kind"), 20) if model.get("brought") else "registry",
        "Sizes": one_line(", ".join(map(str, model["sizes"])), 80),
        "Largest": _count(facts_of(model, largest).get("parameters")),
        "Fits here": one_line(", ".join(fitting), 80) or "none",
        "Quality": percent(quality["value"], quality.get("low"), quality.get("high")) if size else NONE,
        "Trivial": percent(quality["trivial"]) if is_number(quality.get("trivial")) else NONE,
        "Counted": one_line(quality.get("metric"), 60) if size else "agreement with the untouched model",
    }


def _count(value: Any) -> str:
    return f"{value:,}" if is_number(value) else NONE


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _mapping(value: Any) -> Row:
    return value if isinstance(value, Mapping) else {}


def _columnar(rows: Sequence[Row]) -> Table:
    return {title: [row[title] for row in rows] for title in (rows[0] if rows else {})}
