"""Name tone, layout and typography of held-out websites, from their HTML and their screenshot together.

512 generated sites with Chromium's pictures of them, so that no browser is needed here. Half of them hide their style
sheet behind a link, so layout and typography are only in the picture there, while the tone is only in the words:
neither modality is enough. Beside the metric stand what is not a class: looking a site up by its picture or by its
HTML, the distance of the colours, and whether inconsistent sites are noticed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hybrid_core.models.checkpoints import DATA
from hybrid_core.models.tasks.base import ClassesTask, check_hash, whole_rows
from hybrid_core.models.website.colours import lab_distances, rgb_of
from hybrid_core.models.website.labels import ASPECTS, CLASSES, ROLES
from hybrid_core.models.website.reading import html_tokens

HELD_OUT_SITES = DATA / "held_out_sites.jsonl"
HELD_OUT_SITES_SHA256 = "39c1587673c583e582cd2edd71cf002e3bc310a29bc13b5743ee91fc681a1907"
HELD_OUT_PICTURES = DATA / "held_out_sites.png"
HELD_OUT_PICTURES_SHA256 = "a80a8a92db4fe60570dfbbf31f745bc607ee4732ed3ca0969736d4495b171c29"
SHEET_COLUMNS, WIDTH, HEIGHT = 16, 96, 72


@dataclass(frozen=True)
class Sites:
    """Websites and the truth about them: `labels` (n, 3), `palettes` (n, 5, 3) and `declared` (n, 3) in [0, 1]."""

    html: tuple[str, ...]
    pictures: Tensor
    labels: Tensor
    palettes: Tensor
    declared: Tensor
    consistent: Tensor

    def tokens(self, length: int) -> Tensor:
        """(n, length) int64."""
        return torch.stack([html_tokens(html, length) for html in self.html])

    def pixels(self) -> Tensor:
        """(n, 3, 72, 96) float32 in [0, 1]."""
        return self.pictures.float() / 255


def describe_sites(records: list[dict[str, str]], pictures: Tensor) -> Sites:
    """Sites from their records (`Site.to_json`) and their pictures (n, 3, 72, 96) uint8."""
    labels = [[names.index(record[aspect]) for aspect, names in ASPECTS.items()] for record in records]
    palettes = [[rgb_of(record[role]) for role in ROLES] for record in records]
    return Sites(
        html=tuple(record["html"] for record in records),
        pictures=pictures,
        labels=torch.tensor(labels),
        palettes=torch.tensor(palettes) / 255,
        declared=torch.tensor([rgb_of(record["declared"]) for record in records]) / 255,
        consistent=torch.tensor([not record["violation"] for record in records]),
    )


@functools.cache
def held_out_sites() -> Sites:
    """The 512 sites of the task."""
    check_hash(HELD_OUT_SITES_SHA256, HELD_OUT_SITES)
    check_hash(HELD_OUT_PICTURES_SHA256, HELD_OUT_PICTURES)
    records = [json.loads(line) for line in HELD_OUT_SITES.read_text().splitlines()]
    sheet = torch.from_numpy(np.array(Image.open(HELD_OUT_PICTURES).convert("RGB")))
    cells = sheet.view(-1, HEIGHT, SHEET_COLUMNS, WIDTH, 3)
    pictures = cells.permute(0, 2, 4, 1, 3).flatten(0, 1)[: len(records)].contiguous()
    return describe_sites(records, pictures)


@functools.cache
def held_out_tokens(length: int) -> Tensor:
    """The held-out sites' HTML as tokens, read once."""
    return held_out_sites().tokens(length)


@dataclass(frozen=True)
class BrandTask(ClassesTask):
    """Three classes per website."""

    batch: int = 16
    html_length: int = 256
    metric: str = "tone, layout and typography named right"
    unit: str = "website"
    bits_per: str | None = None

    def batches(self, rows: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """HTML tokens (batch, html_length) and pixels (batch, 3, 72, 96); targets (batch, 3)."""
        sites, tokens = held_out_sites(), held_out_tokens(self.html_length)
        count = whole_rows(rows, self.batch, len(sites.labels))
        for start in range(0, count, self.batch):
            chosen = slice(start, start + self.batch)
            yield (tokens[chosen], sites.pictures[chosen].float() / 255), sites.labels[chosen]

    def answer(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Class logits (batch, 3, 8): the first of the model's answers."""
        logits: Tensor = model(*inputs)[0]
        return logits

    def rates(self, model: nn.Module) -> dict[str, float]:
        """Each aspect alone, retrieval among all held-out sites, colour distance, inconsistency noticed."""
        sites = held_out_sites()
        with torch.no_grad():
            answers = [model(*inputs) for inputs, _ in self.batches(len(sites.labels))]
        logits, palettes, _, consistency, html, pictures = (torch.cat(parts) for parts in zip(*answers, strict=True))
        right = (logits.argmax(-1) == sites.labels).double().mean(0)
        return {
            **{f"{aspect} named right": float(share) for aspect, share in zip(ASPECTS, right, strict=True)},
            "picture found by its HTML": retrieved(html, pictures),
            "HTML found by its picture": retrieved(pictures, html),
            "palette distance (CIE 1976)": float(lab_distances(palettes, sites.palettes).mean()),
            "consistency judged right": float(((consistency[:, 0] > 0) == sites.consistent).double().mean()),
        }

    def trivial_score(self) -> float:
        """Always answering the most frequent tone, layout and typography."""
        labels = held_out_sites().labels
        counts = [torch.bincount(labels[:, aspect], minlength=CLASSES).max() for aspect in range(labels.shape[1])]
        return float(sum(counts)) / labels.numel()


def retrieved(asking: Tensor, asked: Tensor) -> float:
    """The share of rows whose nearest embedding on the other side is their own; chance is one in the row count."""
    nearest = (asking.double() @ asked.double().T).argmax(1)
    return float((nearest == torch.arange(len(asking), device=asking.device)).double().mean())
