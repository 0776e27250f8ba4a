"""A brought model in the form of a registry entry: one size, workloads and facts as the inspection found them.

Facts are read from the registration, so showing a model builds nothing; building and feeding it is its source's work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.models.base import Task, check_size
from hybrid_core.models.brought.labels import read_task
from hybrid_core.models.brought.registration import Registration, Source, refuse_change
from hybrid_core.models.capacity import weights_bytes
from hybrid_core.records import Workload

OWN = "own"


class BroughtEntry:
    """See the module."""

    sizes: tuple[str, ...] = (OWN,)

    def __init__(self, registration: Registration, source: Source) -> None:
        self.registration, self.source = registration, source
        details = registration.details
        self.name = registration.name
        self.family = str(details["family"])
        self.title = str(details["title"])
        self.description = str(details["description"])

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """What the inspection found to fit."""
        check_size(self.name, self.sizes, size)
        return tuple(Workload.from_json(workload) for workload in self.registration.details["workloads"])

    def build(self, size: str, seed: int) -> nn.Module:
        """The brought weights, whatever the seed."""
        del seed
        check_size(self.name, self.sizes, size)
        return self.source.build()

    def skeleton(self, size: str) -> nn.Module:
        """The same module on the meta device."""
        check_size(self.name, self.sizes, size)
        return self.source.skeleton()

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Fresh random inputs; held-out rows are only in the task."""
        check_size(self.name, self.sizes, size)
        return self.source.make_inputs(workload, generator)

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """The one call that is timed."""
        return self.source.call(model, workload, inputs)

    def task(self, size: str) -> Task | None:
        """The labelled file's task, or None: then agreement with the untouched model is the quality."""
        check_size(self.name, self.sizes, size)
        if not self.registration.labels:
            return None
        task, digest = read_task(self.registration.labels, self.registration.details)
        refuse_change(self.registration.labels, digest, self.registration.labels_sha256)
        return task

    def facts(self, size: str) -> dict[str, Any]:
        """What the page shows; `trained` says that there is a task whose quality was counted."""
        check_size(self.name, self.sizes, size)
        details = self.registration.details
        count = int(details["parameters"])
        return {
            "parameters": count,
            "published_parameters": None,
            "weights_bytes": weights_bytes(count),
            "kv_cache_bytes_per_token": None,
            "architecture": details["architecture"],
            "sources": [],
            "trained": details.get("quality") is not None,
            "quality": details.get("quality"),
            "training": None,
            "limits": list(details["limits"]),
            "kind": self.registration.kind,
            "path": self.registration.path,
            "sha256": self.registration.sha256,
            "digest_of": details["digest_of"],
            "labels": self.registration.labels or None,
            "seconds_per_call": details.get("seconds_per_call"),
            **details["card"],
        }
