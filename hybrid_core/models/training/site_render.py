"""Photographs generated websites with Chromium, many in one window, and keeps the pictures small.

Each site lives in a sandboxed frame of 480 x 360 without scripts; the picture is reduced five times by averaging, so a
plain area keeps its exact colour. A frame that was not painted yet is noticed by its background and photographed again.
Playwright and Chromium are needed here only: the held-out pictures travel with the package.
"""

from __future__ import annotations

import hashlib
import html as html_text
import io
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from hybrid_core.errors import InvalidInput
from hybrid_core.models.checkpoints import read_facts, read_tensors, write_tensors
from hybrid_core.models.training.site_maker import STYLESHEET_LINK, Site, make_sites
from hybrid_core.models.training.site_styles import RESET

FRAME_WIDTH, FRAME_HEIGHT, REDUCTION = 480, 360, 5
WIDTH, HEIGHT = FRAME_WIDTH // REDUCTION, FRAME_HEIGHT // REDUCTION
COLUMNS, FRAMES = 6, 48
MOST_ATTEMPTS = 5
_WINDOW = (
    "<!DOCTYPE html><style>body{margin:0;display:grid;align-content:start;"
    f"grid-template-columns:repeat({COLUMNS},{FRAME_WIDTH}px);grid-auto-rows:{FRAME_HEIGHT}px}}"
    f"iframe{{border:0;display:block;width:{FRAME_WIDTH}px;height:{FRAME_HEIGHT}px}}</style>"
)


def rendered_sites(count: int, seed: int, folder: Path) -> tuple[list[Site], Tensor]:
    """The sites of a seed with their pictures (count, 3, 72, 96) uint8, rendered once and then read from `folder`."""
    sites, path = make_sites(count, seed), folder / f"sites-{seed}-{count}.safetensors"
    fingerprint = hashlib.sha256("".join(map(document, sites)).encode()).hexdigest()
    if not path.exists() or read_facts(path)["sites"] != fingerprint:
        write_tensors({"pictures": render(sites)}, path, {"sites": fingerprint})
    return sites, read_tensors(path)["pictures"]


def render(sites: list[Site]) -> Tensor:
    """Pictures (sites, 3, 72, 96) uint8.

    Raises:
        InvalidInput: there is no Chromium, or it does not paint.
    """
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        raise InvalidInput("no Chromium was found on the PATH; install it to render websites ('apt install chromium')")
    pictures: list[Tensor] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        size: Any = {"width": FRAME_WIDTH * COLUMNS, "height": FRAME_HEIGHT * math.ceil(FRAMES / COLUMNS)}
        page = browser.new_page(viewport=size, java_script_enabled=False)
        for group in tqdm(list(_groups(sites)), desc="rendering websites", unit=f"x{FRAMES}"):
            pictures.extend(_photograph(page, group))
        browser.close()
    return torch.stack(pictures)


def find_chromium() -> str | None:
    """Where the browser is, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _photograph(page: Any, sites: list[Site]) -> list[Tensor]:
    frames = (f'<iframe sandbox srcdoc="{html_text.escape(document(site))}"></iframe>' for site in sites)
    page.set_content(_WINDOW + "".join(frames))
    for _ in range(MOST_ATTEMPTS):
        window = Image.open(io.BytesIO(page.screenshot(type="png"))).convert("RGB")
        pictures = [_cut(window, index) for index in range(len(sites))]
        if all(is_painted(picture, site) for picture, site in zip(pictures, sites, strict=True)):
            return pictures
        page.wait_for_timeout(200)
    raise InvalidInput(f"Chromium left a frame unpainted {MOST_ATTEMPTS} times; close other programs and render again")


def document(site: Site) -> str:
    """The page as the browser gets it: with the common ground first and a linked style sheet in place of its link."""
    full = site.html.replace(STYLESHEET_LINK, f"<style>{site.style}</style>")
    return full.replace("<head>", f"<head><style>{RESET}</style>")


def is_painted(picture: Tensor, site: Site) -> bool:
    """Whether at least a twentieth of the picture is exactly the background colour and another twentieth is not."""
    background = torch.tensor(site.palette["background"], dtype=torch.uint8).view(3, 1, 1)
    share = float((picture == background).all(0).float().mean())
    return 0.05 < share < 0.95


def _cut(window: Image.Image, index: int) -> Tensor:
    left, top = index % COLUMNS * FRAME_WIDTH, index // COLUMNS * FRAME_HEIGHT
    frame = window.crop((left, top, left + FRAME_WIDTH, top + FRAME_HEIGHT)).reduce(REDUCTION)
    return torch.from_numpy(np.array(frame)).permute(2, 0, 1).contiguous()


def _groups(sites: list[Site]) -> Iterator[list[Site]]:
    for start in range(0, len(sites), FRAMES):
        yield sites[start : start + FRAMES]
