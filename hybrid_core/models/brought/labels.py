"""The quality task of a brought model, made from a small labelled file; without one there is only agreement.

Every row is compared with what the model can take and give: shape, range of tokens, range of classes. At least 32 rows
are needed, or the interval of the score would be too wide to see any loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hybrid_core.errors import InvalidInput
from hybrid_core.models.base import Task
from hybrid_core.models.brought.folder import checked_path
from hybrid_core.models.brought.label_files import MAX_FILE_BYTES, LabelledRows, read_rows
from hybrid_core.models.tasks.base import ClassesTask, spread, whole_rows

MIN_ROWS = 32
BATCH = 8
LONGEST_WINDOW, SHORTEST_WINDOW = 128, 8
BYTES = 256


@dataclass(frozen=True)
class LabelledTask(ClassesTask):
    """Name the class of each held-out row, or of each of its tokens."""

    inputs: Tensor
    labels: Tensor
    batch: int
    metric: str = "accuracy on the labelled file"
    unit: str = "row"
    bits_per: str | None = None

    def batches(self, rows: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Rows in an order that spreads over the file."""
        order = spread(len(self.labels))[: whole_rows(rows, self.batch, len(self.labels))]
        for start in range(0, len(order), self.batch):
            picked = order[start : start + self.batch]
            yield (self.inputs[picked],), self.labels[picked]

    def trivial_score(self) -> float:
        """Always answering the file's most frequent class."""
        return float(self.labels.flatten().bincount().max()) / self.labels.numel()


def read_labels(path_text: str) -> tuple[LabelledRows, Path, str]:
    """The rows of a labelled file, its path, and its SHA-256.

    Raises:
        InvalidInput: it cannot be used; the row is named where one is to blame.
    """
    path = checked_path(path_text, "labelled file")
    if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
        raise InvalidInput(
            f"{path.name!r:.80} is no file of at most {MAX_FILE_BYTES:,} bytes; give a small labelled file"
        )
    data = path.read_bytes()
    return read_rows(path, data), path, hashlib.sha256(data).hexdigest()


def read_task(path_text: str, details: Mapping[str, Any]) -> tuple[Task, str]:
    """The task of a labelled file for the model that `details["input"]` and `details["classes"]` describe."""
    rows, path, digest = read_labels(path_text)
    return make_task(rows, path.name, details), digest


def make_task(rows: LabelledRows, name: str, details: Mapping[str, Any]) -> LabelledTask:
    """The task of rows that were read, each compared with what the model takes and gives.

    `details["input"]` has dtype ("int64" or "float32"), shape of one row with None where it is free, `vocabulary` or
    None, `batch` or None where it is free, and `longest`; `details["answers"]` is "causal", "token_logits", "logits" or
    "states".
    """
    model, answers, classes = details["input"], details["answers"], details["classes"]
    if answers == "states" or not classes:
        raise InvalidInput(
            f"{name!r:.80} is a labelled file, but this model gives hidden states, no classes; bring it without labels"
        )
    if rows.labels is None:
        return _token_task(rows.inputs, name, model, answers)
    inputs = _fitted(rows.inputs, name, model)
    wanted = tuple(inputs.shape[:2]) if answers in ("causal", "token_logits") else (len(inputs),)
    if tuple(rows.labels.shape) != wanted:
        raise InvalidInput(
            f"labels of {name!r:.80} have the shape {list(rows.labels.shape)} where {list(wanted)} are needed"
        )
    _check_range(rows.labels, classes, name, "label")
    batch = model.get("batch") or BATCH
    _check_rows(len(inputs), batch, name)
    return LabelledTask(inputs, rows.labels, batch)


def _token_task(tokens: Tensor, name: str, model: Mapping[str, Any], answers: str) -> LabelledTask:
    """Next-token accuracy over windows of a stream of tokens."""
    if answers != "causal":
        raise InvalidInput(f"{name!r:.80} holds tokens without labels, which only a decoder can be scored on")
    is_text = name.lower().endswith(".txt")
    if is_text and model["vocabulary"] != BYTES:
        raise InvalidInput(
            f"{name!r:.80} is text, but the model's vocabulary of {model['vocabulary']:,} tokens is not that of bytes "
            f"({BYTES}); give a safetensors file with the token numbers as 'tokens'"
        )
    _check_range(tokens[None], model["vocabulary"], name, "token")
    window = max(SHORTEST_WINDOW, min(LONGEST_WINDOW, model["longest"], (len(tokens) - 1) // MIN_ROWS))
    window = min(window, model["longest"])
    count = (len(tokens) - 1) // window
    _check_rows(count, BATCH, name)
    inputs = tokens[: count * window].view(count, window)
    targets = tokens[1 : count * window + 1].view(count, window)
    what = "byte" if is_text else "token"
    return LabelledTask(
        inputs, targets, BATCH, f"next-{what} accuracy on the given file", f"window of {window} {what}s", what
    )


def _fitted(inputs: Tensor, name: str, model: Mapping[str, Any]) -> Tensor:
    """Inputs in the dtype and shape the model takes."""
    if model["dtype"] == "int64":
        if inputs.is_floating_point():
            raise InvalidInput(f"inputs of {name!r:.80} have fractions, but the model takes whole numbers")
        if model.get("vocabulary"):
            _check_range(inputs, model["vocabulary"], name, "token")
    else:
        inputs = inputs.float()
    wanted = [len(inputs), *model["shape"]]
    if None not in wanted:
        if inputs[0].numel() != inputs.new_empty(wanted[1:], device="meta").numel():
            raise InvalidInput(
                f"rows of {name!r:.80} have the shape {list(inputs.shape[1:])}; the model takes {wanted[1:]}"
            )
        return inputs.reshape(wanted)
    if inputs.ndim != len(wanted) or inputs.shape[1] > model["longest"]:
        raise InvalidInput(
            f"rows of {name!r:.80} have the shape {list(inputs.shape[1:])}; the model takes at most "
            f"{model['longest']:,} tokens a row"
        )
    return inputs


def _check_range(values: Tensor, limit: int, name: str, what: str) -> None:
    wrong = (values < 0) | (values >= limit)
    if bool(wrong.any()):
        row = int(wrong.flatten(1).any(1).nonzero()[0]) if values.ndim > 1 else int(wrong.nonzero()[0])
        value = int(values[row][wrong[row]].flatten()[0])
        raise InvalidInput(f"row {row + 1} of {name!r:.80} has the {what} {value}; the model knows 0 to {limit - 1:,}")


def _check_rows(count: int, batch: int, name: str) -> None:
    needed = max(MIN_ROWS, batch)
    if count < needed:
        raise InvalidInput(
            f"{name!r:.80} gives {count} rows; at least {needed} are needed for an interval that says something"
        )
