"""Trains the `tiny` brand kit on websites that this project generates and photographs: the analyser, then the writer.

3,072 sites are rendered once with Chromium (some minutes) and kept in `training/brandkit/`. Some of each batch have
their picture blanked and some their HTML, so that what one modality knows alone is a fair question. Losses:
cross-entropy of the three classes, distance of the colours, consistency, contrastive retrieval within the batch (van
den Oord et al. 2018, CLIP), next byte of the writer.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from hybrid_core.models.base import freeze
from hybrid_core.models.brandkit import SHAPES, BrandKit
from hybrid_core.models.checkpoints import load_weights, save_weights
from hybrid_core.models.tasks import brand
from hybrid_core.models.training.base import STATES, Say, Training, TrainingOptions, make_optimizers
from hybrid_core.models.training.site_maker import Site
from hybrid_core.models.training.site_render import rendered_sites
from hybrid_core.models.training.site_texts import IGNORED, make_texts
from hybrid_core.models.training.site_words import tone_by_counting
from hybrid_core.models.website.labels import ROLES
from hybrid_core.models.website.profile import write_batch
from hybrid_core.models.website.reading import FIRST_WORD, PADDING

DEFAULT_MINUTES = 25.0
TRAINING_SITES, TRAINING_SEED = 3072, 1
HELD_OUT_COUNT, HELD_OUT_SEED = 512, 777
BATCH, TEXTS = 28, 48
TEXT_KINDS = ("tagline", "tagline", "about", "about", "button", "css", "css")
BLANKED = 2
SHORT_PAGE = 160
ANALYSER_LEARNING_RATE, WRITER_LEARNING_RATE = 3e-3, 8e-3
ANALYSER_SHARE = 0.8
FORGOTTEN_WORDS = 0.1
TEMPERATURE = 0.07
WEIGHTS = {"classes": 3.0, "palette": 10.0, "declared": 5.0, "consistency": 1.0, "retrieval": 0.5}
JUDGED_TEXTS = 64
_NAME = re.compile(r"(?:At |this is )(\w+)")


def train(options: TrainingOptions, say: Say = tqdm.write) -> dict[str, Any]:
    """Render if needed, train the analyser, then the writer; the facts of the checkpoint."""
    torch.manual_seed(options.seed)
    model = fresh()
    analyser = train_analyser(model, _part(options, "analyser", ANALYSER_SHARE), say)
    return train_writer(model, analyser, _part(options, "writer", 1 - ANALYSER_SHARE), say)


def train_analyser(model: BrandKit, options: TrainingOptions, say: Say) -> dict[str, Any]:
    """The analyser on rendered sites; the checkpoint it leaves has an untrained writer."""
    sites = as_data(*rendered_sites(TRAINING_SITES, TRAINING_SEED, STATES / "brandkit"))
    tokens = sites.tokens(SHAPES["tiny"].analyser.html_length)
    training = _start(model, model.analyser, ANALYSER_LEARNING_RATE, options.seed)
    return training.run(
        options,
        loss_of=lambda share: batch_loss(model.analyser.train(), sites, tokens, training.generator),
        publish=lambda: training.publish(options, fresh, brand.BrandTask(), _data_facts(), say),
        say=say,
    )


def train_writer(
    model: BrandKit, analyser: dict[str, Any], options: TrainingOptions, say: Say = tqdm.write
) -> dict[str, Any]:
    """The writer on fresh texts, the analyser as it is; `analyser` are the facts of its training."""
    training = _start(model, model.writer, WRITER_LEARNING_RATE, options.seed)
    facts = training.run(
        options,
        loss_of=lambda share: writer_loss(model.writer, training.generator),
        publish=lambda: training.publish(options, fresh, brand.BrandTask(), _data_facts(), say),
        say=say,
    )
    stored = fresh()
    load_weights(stored, options.output)
    freeze(stored)
    spent = {"steps": facts["steps"], "minutes": facts["minutes"]}
    complete = {
        **facts,
        "steps": analyser["steps"] + facts["steps"],
        "minutes": round(analyser["minutes"] + facts["minutes"], 1),
        "writer": {**writer_quality(stored.writer), **spent},
    }
    save_weights(stored, options.output, complete)
    say(f"writer: {complete['writer']}")
    return complete


def _part(options: TrainingOptions, name: str, share: float) -> TrainingOptions:
    """The options of one of the two trainings: its share of the time, a state of its own."""
    state = options.state.with_stem(f"{options.state.stem}-{name}")
    resume = options.resume and state.exists()
    return replace(options, minutes=options.minutes * share, state=state, resume=resume)


def _start(model: nn.Module, part: nn.Module, learning_rate: float, seed: int) -> Training:
    """Muon for the matrices inside the part's layers, AdamW for its embeddings, convolutions, heads and norms."""
    matrices = [p for n, p in part.named_parameters() if p.ndim == 2 and ("layers." in n or "fusion." in n)]
    chosen = {id(p) for p in matrices}
    rest = [p for p in part.parameters() if id(p) not in chosen]
    return Training(model, make_optimizers(matrices, rest, learning_rate), learning_rate, seed)


def _data_facts() -> dict[str, Any]:
    return {
        "training_data": f"{TRAINING_SITES} generated websites (seed {TRAINING_SEED}) rendered with Chromium",
        "held_out_sha256": [brand.HELD_OUT_SITES_SHA256, brand.HELD_OUT_PICTURES_SHA256],
    }


def fresh() -> BrandKit:
    """An untrained model of the trained size."""
    return BrandKit(SHAPES["tiny"])


def as_data(sites: list[Site], pictures: Tensor) -> brand.Sites:
    """Generated sites in the form the task has them."""
    return brand.describe_sites([flat_record(site) for site in sites], pictures)


def flat_record(site: Site) -> dict[str, str]:
    """One line of the held-out file: every text field, and each colour under its role."""
    record = site.to_json()
    return {**record.pop("palette"), **record}


def write_held_out(folder: Path) -> None:
    """Store the held-out sites, once: a JSON line each and one sheet of pictures."""
    sites, pictures = rendered_sites(HELD_OUT_COUNT, HELD_OUT_SEED, STATES / "brandkit")
    lines = "".join(json.dumps(flat_record(site), sort_keys=True) + "\n" for site in sites)
    (folder / brand.HELD_OUT_SITES.name).write_text(lines)
    cells = pictures.view(-1, brand.SHEET_COLUMNS, 3, brand.HEIGHT, brand.WIDTH).permute(0, 3, 1, 4, 2)
    sheet = Image.fromarray(np.ascontiguousarray(cells.flatten(2, 3).flatten(0, 1).numpy()))
    sheet.save(folder / brand.HELD_OUT_PICTURES.name, optimize=True)


def batch_loss(analyser: nn.Module, sites: brand.Sites, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """The weighted sum of all losses on one random batch; the first rows are blind, the next ones have no words."""
    picked = pick_of_one_length(tokens, generator)
    longest = int((tokens[picked] != PADDING).sum(1).max())
    html, pixels = forget_words(tokens[picked, :longest], generator), sites.pictures[picked].float() / 255
    pixels[:BLANKED] = 0.5
    html[BLANKED : 2 * BLANKED, 1:] = PADDING
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answers = analyser(html, pixels)
    logits, palette, declared, consistency, html_embedding, picture_embedding = (a.float() for a in answers)
    seen, whole, consistent = slice(BLANKED, None), slice(2 * BLANKED, None), sites.consistent[picked].float()
    losses = {
        "classes": F.cross_entropy(logits.flatten(0, 1), sites.labels[picked].flatten(), label_smoothing=0.02),
        "palette": (palette - sites.palettes[picked])[seen].abs().mean(),
        "declared": (declared - sites.declared[picked])[whole].abs().mean(),
        "consistency": F.binary_cross_entropy_with_logits(consistency[whole, 0], consistent[whole]),
        "retrieval": contrastive(html_embedding[whole], picture_embedding[whole]),
    }
    return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()


def pick_of_one_length(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of a batch that are either all short or all long pages, because attention pays for the longest."""
    is_short = (tokens != PADDING).sum(1) <= SHORT_PAGE
    wanted = bool(torch.rand((), generator=generator) < is_short.float().mean())
    rows = torch.nonzero(is_short == wanted)[:, 0]
    return rows[torch.randint(len(rows), (BATCH,), generator=generator)]


def contrastive(html: Tensor, pictures: Tensor) -> Tensor:
    """Each HTML must find its own picture in the batch, and the other way round."""
    alike, own = html @ pictures.T / TEMPERATURE, torch.arange(len(html))
    return (F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)) / 2


def forget_words(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """A copy in which some words are gone, so that no single one is relied on."""
    forgotten = (torch.rand(tokens.shape, generator=generator) < FORGOTTEN_WORDS) & (tokens >= FIRST_WORD)
    return tokens.masked_fill(forgotten, PADDING)


def writer_loss(writer: nn.Module, generator: torch.Generator) -> Tensor:
    """Nats per byte of fresh texts of one kind."""
    number = int(torch.randint(2**31, (), generator=generator))
    source = random.Random(number)
    kind = source.choice(TEXT_KINDS)
    text, targets, classes, palette = make_texts(TEXTS, kind, source)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = writer(text, classes, palette)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)


def writer_quality(writer: nn.Module) -> dict[str, float]:
    """On profiles of held-out sites: taglines in the asked tone (by counting words), colours and names exactly."""
    lines = brand.HELD_OUT_SITES.read_text().splitlines()[:JUDGED_TEXTS]
    profiles = [profile_of(json.loads(line)) for line in lines]
    taglines = write_batch(writer, profiles, "tagline", seed=0)
    styles = write_batch(writer, profiles, "css", seed=0)
    named = [
        (_NAME.search(text), p) for text, p in zip(write_batch(writer, profiles, "about", 0), profiles, strict=True)
    ]
    spelled = [match[1] == profile["name"] for match, profile in named if match is not None]
    wanted = [[profile["palette"][role]["hex"] for role in ROLES] for profile in profiles]
    kept = [sum(f"--{r}:{c}" in s for r, c in zip(ROLES, w, strict=True)) for s, w in zip(styles, wanted, strict=True)]
    right = [tone_by_counting(t) == p["tone"]["name"] for t, p in zip(taglines, profiles, strict=True)]
    return {
        "texts": JUDGED_TEXTS,
        "taglines in the asked tone": sum(right) / JUDGED_TEXTS,
        "colours written exactly": sum(kept) / (JUDGED_TEXTS * len(ROLES)),
        "names written exactly": sum(spelled) / max(1, len(spelled)),
    }


def profile_of(record: dict[str, str]) -> dict[str, Any]:
    """The true profile of a site, from its line in the held-out file, in the form `analyse_website` gives."""
    named = {aspect: {"name": record[aspect]} for aspect in ("tone", "layout", "typography")}
    return {"name": record["name"], **named, "palette": {role: {"hex": record[role]} for role in ROLES}}
