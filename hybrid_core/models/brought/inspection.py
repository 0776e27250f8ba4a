"""Brings a model in: checks it as data, describes it, then really loads it and makes one call of each workload.

For a process of its own (`workers.inspect_process`): what is read may be hostile and what is called is not ours. The
cheap refusals come first, and nothing is loaded before it is known to fit.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.entry import OWN, BroughtEntry
from hybrid_core.models.brought.exported import ExportedFile
from hybrid_core.models.brought.input_specs import WHOLE, InputSpec, spec_like
from hybrid_core.models.brought.labels import read_labels
from hybrid_core.models.brought.registration import (
    Registration,
    Source,
    check_kind,
    check_name,
    open_source,
    refuse_taken_name,
)
from hybrid_core.models.brought.sizing import describe_failure
from hybrid_core.models.capacity import MODELS_IN_A_RUN, refuse_what_does_not_fit
from hybrid_core.models.quality import task_quality

REQUEST_KEYS = {"kind", "path", "name", "labels", "allowed_packages", "allow_code"}
QUALITY_ROWS = 512
CALL_SEED = 0


def inspect(request: Mapping[str, Any]) -> BroughtEntry:
    """The entry of what `request` asks to bring in; its `registration` is complete.

    `request` has kind, path and name, and may have labels (a path), allowed_packages (packages whose code may be
    imported; none where code is switched off) and allow_code (false switches code off whatever the list says).

    Raises:
        InvalidInput: it cannot be brought in; one sentence says why.
    """
    kind, name, labels, allowed = _checked(request)
    refuse_taken_name(name)
    source = open_source(kind, str(request["path"]), {"allowed_packages": allowed})
    digest = read_labels(labels)[2] if labels else ""
    details = _described(source, labels)
    refuse_what_does_not_fit(str(details["title"]), int(details["parameters"]), MODELS_IN_A_RUN)
    entry = BroughtEntry(Registration(kind, name, source.path, source.sha256, labels, digest, details), source)
    model = entry.build(OWN, CALL_SEED)
    details["seconds_per_call"] = _try_calls(entry, model, details)
    if labels:
        details["quality"] = _quality(entry, model)
    else:
        details["limits"].append("brought without a labelled file: its quality is agreement with the untouched model")
    complete = dataclasses.replace(entry.registration, details=details)
    return BroughtEntry(Registration.from_text(complete.to_text()), source)


def _checked(request: Mapping[str, Any]) -> tuple[str, str, str, list[str]]:
    unknown = set(request) - REQUEST_KEYS
    if unknown or not {"kind", "path", "name"} <= set(request):
        raise InvalidInput(
            f"the request has the keys {sorted(map(str, request))!r:.120}; kind, path and name are needed, labels, "
            "allowed_packages and allow_code may be there"
        )
    labels, allowed = request.get("labels") or "", request.get("allowed_packages") or []
    if not isinstance(request["path"], str) or not isinstance(labels, str):
        raise InvalidInput("path and labels of the request must be texts")
    if not isinstance(allowed, list) or not all(isinstance(package, str) for package in allowed):
        raise InvalidInput("allowed_packages of the request must be a list of texts")
    if request.get("allow_code", True) is not True:
        allowed = []
    return check_kind(request["kind"]), check_name(request["name"]), labels, allowed


def _described(source: Source, labels: str) -> dict[str, Any]:
    """The source's facts; a labelled file shows the range of numbers that a program does not tell."""
    if isinstance(source, ExportedFile) and labels:
        source.show_range(spec_like(read_labels(labels)[0].inputs[:1_000], "the labelled file"))
    return source.describe()


def _try_calls(entry: BroughtEntry, model: nn.Module, details: dict[str, Any]) -> dict[str, float]:
    """Seconds of one call of each workload; refuses what cannot be compared with a candidate later."""
    seconds: dict[str, float] = {}
    for workload in entry.workloads(OWN):
        inputs = entry.make_inputs(OWN, workload, torch.Generator().manual_seed(CALL_SEED))
        answers = []
        for _ in range(2):
            started = time.monotonic()
            try:
                with torch.no_grad():
                    answers.append(_tensors(entry.call(model, workload, inputs)))
            except InvalidInput:
                raise
            except Exception as error:  # the model is not ours
                what = f"the model failed on one call of {workload.label}"
                raise describe_failure(error, what, "bring a model that runs on such inputs") from None
            seconds[workload.name] = round(time.monotonic() - started, 4)
        _check_answers(answers[0], answers[1], workload.name)
        if "answers" not in details:
            details.update(_form(answers[0], details["inputs"]))
    return seconds


def _tensors(answer: Any) -> tuple[Tensor, ...]:
    found = (answer,) if isinstance(answer, Tensor) else answer
    if not isinstance(found, tuple) or not found or not all(isinstance(item, Tensor) for item in found):
        raise InvalidInput(
            f"the model returns a {type(answer).__name__}; its forward must return a tensor or a tuple of tensors"
        )
    return found


def _check_answers(first: tuple[Tensor, ...], second: tuple[Tensor, ...], workload: str) -> None:
    for place, (left, right) in enumerate(zip(first, second, strict=True)):
        if left.is_floating_point() and not bool(left.isfinite().all()):
            raise InvalidInput(
                f"output {place} of {workload} holds NaN or infinity, so nothing can be compared with it"
            )
        if not torch.equal(left, right):
            raise InvalidInput(
                f"output {place} of {workload} differs between two equal calls; bring a model that draws no random "
                "numbers and changes nothing in itself"
            )


def _form(answers: tuple[Tensor, ...], inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """What a labelled file must look like, read from one call of a module that does not say."""
    spec, first = InputSpec.from_json(inputs[0]), answers[0]
    simple = len(inputs) == 1 and len(answers) == 1 and first.is_floating_point() and len(spec.shape) > 0
    is_logits = simple and first.ndim == 2 and first.shape[0] == spec.shape[0]
    is_tokens = simple and first.ndim == 3 and first.shape[:2] == spec.shape[:2]
    known = spec.dtype in ("float32", "int64")
    answers_are = ("logits" if is_logits else "token_logits") if known and (is_logits or is_tokens) else "states"
    return {
        "answers": answers_are,
        "classes": None if answers_are == "states" else int(first.shape[-1]),
        "input": {
            "dtype": spec.dtype,
            "shape": list(spec.shape[1:]),
            "vocabulary": spec.high if spec.dtype in WHOLE else None,
            "batch": spec.shape[0] if spec.shape else None,
            "longest": spec.shape[1] if len(spec.shape) > 1 else 1,
        },
    }


def _quality(entry: BroughtEntry, model: nn.Module) -> dict[str, Any]:
    """The task's figure of the untouched model."""
    task = entry.task(OWN)
    assert task is not None
    try:
        return task_quality(model, task, QUALITY_ROWS)
    except InvalidInput:
        raise
    except Exception as error:  # the model is not ours
        raise describe_failure(
            error, "the model failed on the labelled file", "give rows of the shape the model takes"
        ) from None
