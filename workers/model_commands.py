"""The commands about models: bring one in and see its card, list them all, forget one.

Shapes of paths decide what is brought where nobody says: a folder is a Hugging Face model, a `.pt2` file an exported
program, `module:function` a factory. Paths are made absolute here, because the hub lives in another folder.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from hybrid_core.errors import InvalidInput
from workers.client import Client, ensure_hub

EXIT_REFUSED, EXIT_INTERRUPTED = 1, 130
POLL_S, TELL_EVERY_S = 0.25, 5.0
Row = Mapping[str, Any]


def add_commands(commands: Any) -> None:
    """`bring`, `models` and `forget` among the commands of a parser."""
    bring = commands.add_parser("bring", help="bring in a model from this machine")
    bring.add_argument("path", help="a folder with config.json and safetensors, a .pt2 file, or module:function")
    bring.add_argument("--name", default="", help="its name here (from the path)")
    bring.add_argument("--kind", default="", help="huggingface, exported or factory (from the path)")
    bring.add_argument("--labels", default="", help="a small labelled file, so that accuracy can be counted")
    bring.set_defaults(act=bring_model)
    commands.add_parser("models", help="what can be optimized").set_defaults(act=list_models)
    forget = commands.add_parser("forget", help="take a brought model out of every form; its files stay")
    forget.add_argument("name", help="the name it was brought in under")
    forget.set_defaults(act=forget_model)


def bring_model(options: argparse.Namespace) -> int:
    """Have a model inspected, wait, and print its card or the reason against it."""
    request = request_of(options.path, options.kind, options.name, options.labels)
    client = ensure_hub()
    known = find(client, request["name"])
    if known is not None and known["state"] == "ready":
        complain(f"{request['name']} was brought in before; forget it to have it read anew")
    client.bring_model(**request)
    try:
        row = wait_for_inspection(client, request["name"], sys.stderr)
    except KeyboardInterrupt:
        complain("\nthe inspection goes on; `python -m workers models` tells how it ends")
        return EXIT_INTERRUPTED
    if row is None or row["state"] != "ready":
        reason = "it was forgotten meanwhile" if row is None else printable(row["reason"])
        complain(f"{request['name']} was not brought in: {reason}")
        return EXIT_REFUSED
    say("\n".join(card_lines(next(m for m in client.catalog()["models"] if m["name"] == request["name"]))))
    return 0


def say(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """A line beside the result."""
    sys.stderr.write(text + "\n")


def request_of(path: str, kind: str = "", name: str = "", labels: str = "") -> dict[str, str]:
    """What the hub is asked, with everything that was left open read from the path.

    >>> request_of("my_package.models:make_net")
    {'kind': 'factory', 'path': 'my_package.models:make_net', 'name': 'make_net', 'labels': ''}
    """
    kind = kind or kind_of(path)
    stem = path.rpartition(":")[2] if kind == "factory" else Path(path).expanduser().absolute().name
    stem = stem.removesuffix(".pt2") if kind == "exported" else stem
    return {
        "kind": kind,
        "path": path if kind == "factory" else absolute(path),
        "name": name or re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-")[:40],
        "labels": absolute(labels) if labels else "",
    }


def kind_of(path: str) -> str:
    """The kind of model that a path of this shape is.

    Raises:
        InvalidInput: it has none of the known shapes.
    """
    if Path(path).expanduser().is_dir():
        return "huggingface"
    if path.endswith(".pt2"):
        return "exported"
    if re.fullmatch(r"[\w.]+:\w+", path):
        return "factory"
    raise InvalidInput(
        f"{path!r:.80} is no folder, no .pt2 file and no module:function; check the path, or say what it is with --kind"
    )


def absolute(path: str) -> str:
    """A path that means the same in every process."""
    return str(Path(path).expanduser().absolute())


def wait_for_inspection(
    client: Client, name: str, stream: IO[str], sleep: Callable[[float], None] = time.sleep
) -> dict[str, Any] | None:
    """The model's row once it was inspected, None when it was forgotten; says now and then that it waits."""
    started, told = time.monotonic(), 0.0
    while (row := find(client, name)) is not None and row["state"] == "checking":
        waited = time.monotonic() - started
        if waited - told >= TELL_EVERY_S or told == 0.0:
            told = max(waited, 1e-9)
            stream.write(f"{name} is being inspected, {waited:.0f} s\n")
        sleep(POLL_S)
    return row


def find(client: Client, name: str) -> dict[str, Any] | None:
    """The row of a brought model."""
    return next((row for row in client.query("brought_models") if row["name"] == name), None)


def list_models(_: argparse.Namespace) -> int:
    """Print every model that can be optimized, and what was brought in and cannot."""
    client = ensure_hub()
    models = client.catalog()["models"]
    rows = [("name", "from", "sizes", "parameters", "quality", "trivial")]
    rows += [_model_row(model) for model in models]
    say("\n".join(columns(rows)))
    for row in client.query("brought_models"):
        if row["state"] != "ready":
            say(f"{row['name']} is {row['state']}" + (f": {printable(row['reason'])}" if row["reason"] else ""))
    return 0


def forget_model(options: argparse.Namespace) -> int:
    """Forget a brought model."""
    say(ensure_hub().forget_model(options.name))
    return 0


def card_lines(model: Row) -> Iterator[str]:
    """The card of facts of one model."""
    yield f"{model['name']}: {printable(model['title'])}"
    yield printable(model["description"])
    sizes = [("size", "parameters", "float32", "bfloat16", "int8", "cache per token", "fits on")]
    sizes += [_size_row(size, model["facts"][size]) for size in model["sizes"]]
    yield from ["", *columns(sizes), ""]
    for size in model["sizes"]:
        facts = model["facts"][size]
        yield f"workloads of {printable(size)}: " + "; ".join(printable(w["label"]) for w in model["workloads"][size])
        quality = quality_text(facts.get("quality")) or "agreement with the untouched model"
        yield f"quality of {printable(size)}: {quality}"
        yield from (f"- {printable(limit)}" for limit in facts.get("limits") or [])


def quality_text(quality: Any) -> str:
    """The metric with its interval and the trivial baseline; empty where none was counted."""
    if not isinstance(quality, Mapping) or not _is_number(quality.get("value")):
        return ""
    text = f"{printable(quality.get('metric'))} {quality['value']:.3f}"
    if _is_number(quality.get("low")) and _is_number(quality.get("high")):
        text += f" [{quality['low']:.3f}, {quality['high']:.3f}]"
    return text + (f", trivial {quality['trivial']:.3f}" if _is_number(quality.get("trivial")) else "")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def printable(text: Any) -> str:
    """Text from outside on one line, without anything that a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def _model_row(model: Row) -> tuple[str, ...]:
    facts = model["facts"][model["sizes"][0]]
    quality = facts.get("quality") if isinstance(facts.get("quality"), Mapping) else {}
    return (
        model["name"],
        str(model["kind"]) if model.get("brought") else "registry",
        ", ".join(printable(size) for size in model["sizes"]),
        _count(facts.get("parameters")),
        f"{quality['value']:.3f}" if _is_number(quality.get("value")) else "-",
        f"{quality['trivial']:.3f}" if _is_number(quality.get("trivial")) else "-",
    )


def _size_row(size: str, facts: Row) -> tuple[str, ...]:
    weights, cached = facts.get("weights_bytes") or {}, facts.get("kv_cache_bytes_per_token") or {}
    fits = [device for device, fit in (facts.get("fits") or {}).items() if fit["fits"]]
    built, published = _count(facts.get("parameters")), facts.get("published_parameters")
    return (
        printable(size),
        built if published is None else f"{built} (published {_count(published)})",
        *(_bytes(weights.get(dtype)) for dtype in ("float32", "bfloat16", "int8")),
        _bytes(cached.get("float32")),
        ", ".join(fits) or "no device here",
    )


def _count(value: Any) -> str:
    return f"{value:,}" if _is_number(value) else "unknown"


def _bytes(value: Any) -> str:
    if not _is_number(value):
        return "-"
    unit, size = next(((u, s) for u, s in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)) if value >= s), ("B", 1))
    return f"{value / size:,.1f} {unit}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
