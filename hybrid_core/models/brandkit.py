"""Brand kit: a website's HTML and screenshot to a brand profile, and text and style sheets in that brand's voice.

The document's Brand Analyzer read a fixed invented site and attended over a single key, its Content Generator was fed
random bytes; here both halves read and write real ones. One module holds analyser and writer: with a text it also says
how the writer, under the profile just read, would go on at each byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybrid_core.models.base import RegistryEntry, Task, check_size
from hybrid_core.models.checkpoints import CHECKPOINTS
from hybrid_core.models.parts.brand_encoder import AnalyserShape, BrandAnalyser
from hybrid_core.models.parts.brand_writer import BrandWriter, WriterShape, prompt_of
from hybrid_core.models.tasks.brand import BrandTask, held_out_sites, held_out_tokens
from hybrid_core.models.website.html_reader import read_html
from hybrid_core.models.website.labels import ASPECTS, KINDS, ROLES
from hybrid_core.records import Workload


@dataclass(frozen=True)
class BrandShape:
    """Both halves of one size."""

    analyser: AnalyserShape
    writer: WriterShape

    @property
    def parameters(self) -> int:
        """The count in closed form."""
        return self.analyser.parameters + self.writer.parameters


SHAPES = {
    "tiny": BrandShape(
        AnalyserShape(
            dim=96, heads=3, html_layers=2, fusion_layers=2, readers=4, widths=(24, 48, 96),
            html_length=256, height=72, width=96, embedding=64,
        ),
        WriterShape(dim=96, heads=3, layers=2, length=224),
    ),
    "small": BrandShape(
        AnalyserShape(
            dim=384, heads=6, html_layers=8, fusion_layers=4, readers=8, widths=(64, 128, 256),
            html_length=512, height=144, width=192, embedding=256,
        ),
        WriterShape(dim=384, heads=6, layers=6, length=512),
    ),
    "full": BrandShape(
        AnalyserShape(
            dim=768, heads=12, html_layers=8, fusion_layers=4, readers=8, widths=(96, 192, 384),
            html_length=1024, height=288, width=384, embedding=512,
        ),
        WriterShape(dim=768, heads=12, layers=6, length=1024),
    ),
}  # fmt: skip


class BrandKit(nn.Module):
    """Analyser and writer."""

    def __init__(self, shape: BrandShape) -> None:
        super().__init__()
        self.shape = shape
        self.analyser, self.writer = BrandAnalyser(shape.analyser), BrandWriter(shape.writer)

    def forward(self, tokens: Tensor, pixels: Tensor, text: Tensor | None = None) -> tuple[Tensor, ...]:
        """HTML tokens and pixels to the analyser's six tensors; with text (batch, bytes) also its next-byte logits."""
        analysis: tuple[Tensor, ...] = self.analyser(tokens, pixels)
        if text is None:
            return analysis
        return (*analysis, self.writer(text, torch.softmax(analysis[0], dim=-1), analysis[1]))


class BrandKitEntry(RegistryEntry):
    """The registry's entry."""

    name = "brandkit"
    family = "multimodal"
    title = "Brand kit: website analysis and content"
    description = (
        "Reads a website's HTML and screenshot and names its tone, layout, typography and colours, judges whether they "
        "belong together, finds a site by its picture, and writes taglines and style sheets in the brand's voice."
    )
    architecture = (
        "A pre-norm transformer over HTML tokens and residual convolutions over the screenshot, read by a few profile "
        "tokens through cross-attention; colours are pointed at by attention over the pixels. The writer is a causal "
        "byte decoder that reads the profile by cross-attention."
    )
    sources = (
        "Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision (arXiv 2103.00020)",
        "Jaegle et al. 2021, Perceiver: General Perception with Iterative Attention (arXiv 2103.03206)",
        "Weinberger et al. 2009, Feature Hashing for Large Scale Multitask Learning (arXiv 0902.2206)",
        "Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762)",
    )
    checkpoint = CHECKPOINTS / "brandkit-tiny.safetensors"

    def make(self, size: str) -> nn.Module:
        """See `RegistryEntry.make`."""
        return BrandKit(SHAPES[size])

    def parameters(self, size: str) -> int:
        """See `RegistryEntry.parameters`."""
        return SHAPES[size].parameters

    def workloads(self, size: str) -> tuple[Workload, ...]:
        """Sites analysed in a batch and alone; analysed and written for, with a text of `length` bytes."""
        check_size(self.name, self.sizes, size)
        batch = 16 if size == "tiny" else 1
        return (
            Workload("analyse", "forward", batch=batch),
            Workload("analyse_single", "forward", batch=1),
            Workload("analyse_and_write", "forward", batch=batch, length=96),
        )

    def make_inputs(self, size: str, workload: Workload, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Held-out sites, enlarged for sizes that read larger pictures; the text is a prompt and the page's words."""
        check_size(self.name, self.sizes, size)
        shape, sites = SHAPES[size].analyser, held_out_sites()
        chosen = torch.randint(len(sites.labels), (workload.batch,), generator=generator)
        pixels = sites.pictures[chosen].float() / 255
        if (shape.height, shape.width) != pixels.shape[2:]:
            pixels = F.interpolate(pixels, size=(shape.height, shape.width), mode="bilinear")
        tokens = held_out_tokens(shape.html_length)[chosen]
        if not workload.length:
            return tokens, pixels
        return tokens, pixels, torch.stack([_text_for(sites.html[i], workload.length) for i in chosen.tolist()])

    def call(self, model: nn.Module, workload: Workload, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """All answers, class logits (batch, 3, 8) first."""
        answers: tuple[Tensor, ...] = model(*inputs)
        return answers

    def trained_task(self) -> Task:
        """Three classes per held-out website."""
        return BrandTask()

    def limits(self, size: str) -> list[str]:
        """What not to expect."""
        if size != "tiny":
            return ["random weights: for speed and memory only, its outputs mean nothing"]
        return [
            "trained on websites this project generates: their words, layouts and letters are simpler than real ones",
            "reads the first 256 tokens of a page and a picture of 96 x 72, about as much as is seen above the fold",
            "writes short English texts from the vocabulary of its training sites, about things of its own choice",
        ]

    def card(self, size: str) -> dict[str, Any]:
        """What is read, what is answered, and why no published count stands beside it."""
        check_size(self.name, self.sizes, size)
        shape = SHAPES[size]
        return {
            "reads": {
                "html_tokens": shape.analyser.html_length,
                "screenshot": [shape.analyser.width, shape.analyser.height],
            },
            "answers": {**{aspect: list(names) for aspect, names in ASPECTS.items()}, "colours": list(ROLES)},
            "writes": list(KINDS),
            "parts": {"analyser": shape.analyser.parameters, "writer": shape.writer.parameters},
            "published_note": (
                "the document gives 9,476,347 parameters for its Brand Analyzer and 137.7 million for its Content "
                "Generator; those are other architectures whose inputs were invented, so nothing is compared with them"
            ),
        }


def _text_for(html: str, length: int) -> Tensor:
    """A prompt and the first words of the page, repeated where it is short: `length` bytes."""
    words = " ".join(piece.text for piece in read_html(html) if piece.kind == "text").encode("ascii", "replace") + b" "
    text = bytes([prompt_of("about")]) + words * (length // len(words) + 1)
    return torch.tensor(list(text[:length]), dtype=torch.int64)
