"""Labelled files become tasks that fit the model; rows that do not are refused with their number."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hybrid_core.errors import InvalidInput
from hybrid_core.models.base import Task
from hybrid_core.models.brought.huggingface import HuggingFaceFolder
from hybrid_core.models.brought.label_files import LabelledRows
from hybrid_core.models.brought.labels import make_task, read_task
from hybrid_core.models.quality import task_quality

VECTORS = {
    "answers": "logits",
    "classes": 3,
    "input": {"dtype": "float32", "shape": [4], "vocabulary": None, "batch": None, "longest": 1},
}
IMAGES = {**VECTORS, "input": {**VECTORS["input"], "shape": [1, 2, 2]}}  # type: ignore[dict-item]
TEXTS = {
    "answers": "logits",
    "classes": 3,
    "input": {"dtype": "int64", "shape": [None], "vocabulary": 50, "batch": None, "longest": 16},
}
DECODER = {**TEXTS, "answers": "causal", "classes": 50}
BYTE_DECODER = {**DECODER, "classes": 256, "input": {**TEXTS["input"], "vocabulary": 256}}  # type: ignore[dict-item]
STATES = {**VECTORS, "answers": "states", "classes": None}


def labels_of(count: int) -> torch.Tensor:
    return torch.arange(count) % 3


def tensors(path: Path, **given: torch.Tensor) -> Path:
    save_file(given, path)
    return path


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def rows_of(count: int, width: int = 4) -> list[dict[str, Any]]:
    return [{"input": [float(i)] * width, "label": i % 3} for i in range(count)]


def everything(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(task.batches(10**6))
    return torch.cat([inputs[0] for inputs, _ in batches]), torch.cat([targets for _, targets in batches])


def test_safetensors_json_lines_and_csv_give_the_same_task(tmp_path: Path) -> None:
    rows = rows_of(40)
    inputs = torch.tensor([row["input"] for row in rows])
    files = [
        tensors(tmp_path / "a.safetensors", inputs=inputs, labels=labels_of(40)),
        lines(tmp_path / "a.jsonl", rows),
        tmp_path / "a.csv",
    ]
    files[2].write_text("a,b,c,d,label\n" + "\n".join(",".join(map(str, [*r["input"], r["label"]])) for r in rows))
    found = [everything(read_task(str(file), VECTORS)[0]) for file in files]
    for got, labels in found:
        assert torch.equal(got, found[0][0]) and torch.equal(labels, found[0][1])
        assert torch.equal(got[:, 0].long() % 3, labels) and len(labels) == 40


def test_the_task_keeps_the_promises_of_a_task(tmp_path: Path) -> None:
    path = tensors(tmp_path / "a.safetensors", inputs=torch.randn(45, 4), labels=(torch.arange(45) == 0).long())
    task, digest = read_task(str(path), VECTORS)
    assert isinstance(task, Task) and len(digest) == 64
    assert task.trivial_score() == pytest.approx(44 / 45)
    assert sum(len(targets) for _, targets in task.batches(20)) == 16
    assert {len(targets) for _, targets in task.batches(10**6)} == {8}
    model = torch.nn.Linear(4, 3)
    hits = [(model(*x).argmax(-1) == y).double() for x, y in task.batches(10**6)]
    quality = task_quality(model, task)
    assert quality["value"] == pytest.approx(float(torch.cat(hits).mean()))
    assert quality["low"] <= quality["value"] <= quality["high"] and quality["samples"] == 40


def test_flat_rows_are_shaped_like_the_models_images(tmp_path: Path) -> None:
    task, _ = read_task(str(lines(tmp_path / "a.jsonl", rows_of(32))), IMAGES)
    assert next(task.batches(8))[0][0].shape == (8, 1, 2, 2)


def test_tokens_give_next_token_accuracy_over_windows(tmp_path: Path) -> None:
    tokens = torch.arange(1_001) % 50
    task, _ = read_task(str(tensors(tmp_path / "t.safetensors", tokens=tokens.to(torch.uint8))), DECODER)
    inputs, targets = everything(task)
    assert inputs.shape[1] == 16 and torch.equal((inputs + 1) % 50, targets)
    assert task.metric == "next-token accuracy on the given file" and task.bits_per == "token"


def test_text_is_read_as_bytes_by_a_model_of_bytes_only(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("every byte counts, größer " * 60)
    task, _ = read_task(str(path), BYTE_DECODER)
    inputs, _ = everything(task)
    assert task.bits_per == "byte" and int(inputs.max()) > 127
    with pytest.raises(InvalidInput, match="not that of bytes"):
        read_task(str(path), DECODER)


def test_labels_of_every_token_are_scored_where_the_model_gives_token_logits(tmp_path: Path) -> None:
    path = tensors(tmp_path / "a.safetensors", inputs=torch.randint(50, (32, 7)), labels=torch.randint(3, (32, 7)))
    assert next(read_task(str(path), {**TEXTS, "answers": "token_logits"})[0].batches(8))[1].shape == (8, 7)


def test_a_fixed_batch_of_the_model_is_the_batch_of_the_task(tmp_path: Path) -> None:
    path = tensors(tmp_path / "a.safetensors", inputs=torch.randn(45, 4), labels=labels_of(45))
    fixed = {**VECTORS, "input": {**VECTORS["input"], "batch": 20}}  # type: ignore[dict-item]
    assert [len(y) for _, y in read_task(str(path), fixed)[0].batches(10**6)] == [20, 20]


Make = Callable[[Path], Path]
REFUSED: dict[str, tuple[Make, dict[str, Any], str]] = {
    "31 rows": (lambda p: lines(p / "a.jsonl", rows_of(31)), VECTORS, "gives 31 rows; at least 32"),
    "no rows": (lambda p: lines(p / "a.jsonl", []), VECTORS, "has no rows"),
    "a class the model lacks": (
        lambda p: lines(p / "a.jsonl", [*rows_of(39), {"input": [1.0] * 4, "label": 3}]),
        VECTORS,
        "row 40 of 'a.jsonl' has the label 3; the model knows 0 to 2",
    ),
    "a negative class": (
        lambda p: lines(p / "a.jsonl", [{"input": [1.0] * 4, "label": -1}]),
        VECTORS,
        "row 1 of 'a.jsonl' has the label -1",
    ),
    "a class that is a fraction": (
        lambda p: lines(p / "a.jsonl", [{"input": [1.0] * 4, "label": 0.5}]),
        VECTORS,
        "row 1",
    ),
    "a token the model lacks": (
        lambda p: tensors(
            p / "a.safetensors",
            inputs=torch.cat([torch.zeros(36, 5), torch.full((4, 5), 50.0)]).long(),
            labels=labels_of(40),
        ),
        TEXTS,
        "row 37 of 'a.safetensors' has the token 50; the model knows 0 to 49",
    ),
    "rows too long": (
        lambda p: tensors(p / "a.safetensors", inputs=torch.zeros(40, 17).long(), labels=labels_of(40)),
        TEXTS,
        "at most 16 tokens a row",
    ),
    "fractions as tokens": (
        lambda p: tensors(p / "a.safetensors", inputs=torch.zeros(40, 5), labels=labels_of(40)),
        TEXTS,
        "takes whole numbers",
    ),
    "rows of another shape": (lambda p: lines(p / "a.jsonl", rows_of(40, width=5)), VECTORS, "the model takes [4]"),
    "rows of unequal length": (
        lambda p: lines(p / "a.jsonl", [*rows_of(33), {"input": [1.0], "label": 0}]),
        VECTORS,
        "row 34 of 'a.jsonl' has another shape",
    ),
    "text in a row": (
        lambda p: lines(p / "a.jsonl", [{"input": ["x"] * 4, "label": 0}]),
        VECTORS,
        "row 1 of 'a.jsonl' holds 'x'",
    ),
    "a row that is no object": (lambda p: lines(p / "a.jsonl", [[1, 2]]), VECTORS, "row 1 of 'a.jsonl'"),
    "a further key": (lambda p: lines(p / "a.jsonl", [{"input": [1], "label": 0, "x": 1}]), VECTORS, "row 1"),
    "NaN in a row": (
        lambda p: (p / "a.jsonl").write_text('{"input": [NaN], "label": 0}') and p / "a.jsonl",
        VECTORS,
        "NaN",
    ),
    "infinity in tensors": (
        lambda p: tensors(p / "a.safetensors", inputs=torch.full((40, 4), torch.inf), labels=labels_of(40)),
        VECTORS,
        "NaN or infinity",
    ),
    "tensors of other names": (
        lambda p: tensors(p / "a.safetensors", x=torch.zeros(40, 4)),
        VECTORS,
        "give 'inputs' and 'labels'",
    ),
    "more labels than inputs": (
        lambda p: tensors(p / "a.safetensors", inputs=torch.zeros(40, 4), labels=labels_of(41)),
        VECTORS,
        "one entry for each row",
    ),
    "labels with fractions": (
        lambda p: tensors(p / "a.safetensors", inputs=torch.zeros(40, 4), labels=torch.zeros(40)),
        VECTORS,
        "whole numbers are needed",
    ),
    "a header of 2^60": (
        lambda p: (p / "a.safetensors").write_bytes(b"\0" * 7 + b"\x10" + bytes(99)) and p / "a.safetensors",
        VECTORS,
        "header of a.safetensors",
    ),
    "a CSV without label": (lambda p: (p / "a.csv").write_text("a,b\n1,2") and p / "a.csv", VECTORS, "'label'"),
    "a CSV row too short": (
        lambda p: (p / "a.csv").write_text("a,label\n1,2\n1") and p / "a.csv",
        VECTORS,
        "row 2 of 'a.csv' has 1 values",
    ),
    "a formula in a CSV": (
        lambda p: (p / "a.csv").write_text("a,label\n=cmd(),2") and p / "a.csv",
        VECTORS,
        "row 1 of 'a.csv' holds '=cmd()'",
    ),
    "text that is not UTF-8": (lambda p: (p / "a.txt").write_bytes(b"\xff\xfe") and p / "a.txt", BYTE_DECODER, "UTF-8"),
    "a pickle": (lambda p: (p / "a.pt").write_bytes(b"\x80\x04.") and p / "a.pt", VECTORS, "allowed are .safetensors"),
    "too short a text": (lambda p: (p / "a.txt").write_text("short") and p / "a.txt", BYTE_DECODER, "at least 32"),
    "tokens for a classifier": (
        lambda p: tensors(p / "t.safetensors", tokens=torch.zeros(999).long()),
        TEXTS,
        "only a decoder",
    ),
    "labels for hidden states": (lambda p: lines(p / "a.jsonl", rows_of(40)), STATES, "bring it without labels"),
    "a missing file": (lambda p: p / "none.csv", VECTORS, "does not exist"),
    "a folder": (lambda p: p, VECTORS, "is no file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_does_not_fit_is_refused_with_the_row(tmp_path: Path, case: str) -> None:
    make, details, told = REFUSED[case]
    with pytest.raises(InvalidInput) as refusal:
        read_task(str(make(tmp_path)), details)
    assert told in str(refusal.value), str(refusal.value)


@pytest.mark.parametrize("name", ["bert_classes", "bert_tags", "llama", "vit"])
def test_a_brought_model_is_scored_on_the_labels_its_own_answers_give(saved: Callable[[str], Path], name: str) -> None:
    source = HuggingFaceFolder(str(saved(name)))
    details, model = source.describe(), source.build()
    torch.manual_seed(0)
    is_image = source.config.family.reads == "image"
    inputs = torch.randn(32, 3, 16, 16) if is_image else torch.randint(96, (32, 10))
    with torch.no_grad():
        labels = model(inputs).argmax(-1)
    task = make_task(LabelledRows(inputs, labels), "own answers", details)
    assert task_quality(model, task)["value"] == 1.0
    wrong = make_task(LabelledRows(inputs, (labels + 1) % details["classes"]), "other answers", details)
    assert task_quality(model, wrong)["value"] == 0.0
