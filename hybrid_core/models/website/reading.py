"""Turns a website into tensors: its HTML into tokens, its screenshot into a small picture. Nothing in it is executed.

Tags, words and style sheets are read, scripts dropped. A colour becomes three tokens (one of 32 levels for red, green
and blue each), a tag one token, every other word one of 2,048 buckets by CRC-32, so any language and any style sheet
can be read without a vocabulary file (the hashing trick, Weinberger et al. 2009). Work is bounded: input is cut at a
fixed size and reading stops when the tokens are full.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from itertools import islice

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from hybrid_core.errors import InvalidInput
from hybrid_core.models.website.colours import rgb_of
from hybrid_core.models.website.html_reader import Piece, read_html
from hybrid_core.models.website.labels import MOST_NAME_BYTES

TAGS = tuple(
    "html head title meta link style body header nav main section article aside footer figure div span p a b i em "
    "strong small h1 h2 h3 h4 h5 h6 ul ol li img picture video svg form input button label select table tr td th br hr "
    "blockquote figcaption iframe".split()
)
PADDING, OTHER_TAG = 0, 1
FIRST_TAG = 2
LEVELS = 32
FIRST_LEVEL = FIRST_TAG + len(TAGS)
FIRST_WORD = FIRST_LEVEL + 3 * LEVELS
WORDS = 2048
VOCABULARY = FIRST_WORD + WORDS

MOST_HTML_BYTES = 100_000
MOST_STYLE_CHARACTERS_PER_TOKEN = 16
STYLE_SHARE = 0.5
"""A page's style sheets fill at most this share of the tokens: the words behind a long one must still be read."""
MOST_PIXELS = 40_000_000
MOST_ASPECT = 2.0

_WORD = re.compile(r"[^\W_][\w'-]*")
_STYLE = re.compile(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b|-?-?[A-Za-z0-9.][\w.%-]*")
_TITLE_END = re.compile(r"\s[-|:\u2013\u2014\u00b7]\s")
_TAG_TOKENS = {tag: FIRST_TAG + index for index, tag in enumerate(TAGS)}


def html_tokens(html: str | bytes, length: int) -> Tensor:
    """Tokens (length,) int64, padded with zeros at the end.

    Raises:
        InvalidInput: there is no element in it, so it is no HTML.
    """
    text, tokens, elements = _checked_text(html), _Tokens(length), 0
    for piece in read_html(text):
        elements += piece.kind == "tag"
        tokens.add(piece)
        if tokens.is_full and elements:
            break
    if not elements:
        raise InvalidInput(f"the HTML holds no element in its first {len(text):,} characters; give the page's source")
    return torch.tensor(tokens.padded(), dtype=torch.int64)


def html_title(html: str | bytes) -> str:
    """The title's first words in ASCII, at most 16 characters: the brand's name as the writer can use it."""
    titles = (piece.text for piece in read_html(_checked_text(html)) if piece.kind == "title")
    first = _TITLE_END.split(" ".join(next(titles, "")[:200].split()))[0]
    return first.encode("ascii", "ignore").decode()[:MOST_NAME_BYTES].strip()


def screenshot_pixels(screenshot: bytes | Image.Image, width: int, height: int) -> Tensor:
    """Pixels (3, height, width) float32 in [0, 1]; of a long page the top is kept, of a wide one everything.

    Raises:
        InvalidInput: not a picture, smaller than what the model reads, larger than 40 million pixels, or very wide.
    """
    picture = _open(screenshot)
    _check_size(picture.width, picture.height, width, height)
    kept = min(picture.height, round(picture.width * height / width))
    try:
        small = picture.convert("RGB").resize((width, height), Image.Resampling.BOX, box=(0, 0, picture.width, kept))
    except OSError as error:
        raise InvalidInput(f"the screenshot is damaged ({error}); save it again as PNG or JPEG") from error
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous().float() / 255


def style_tokens(style: str) -> list[int]:
    """A style sheet's words and colours; punctuation is dropped.

    >>> len(style_tokens("a{color:#4682b4}"))
    5
    """
    tokens: list[int] = []
    for match in _STYLE.finditer(style):
        text = match[0]
        tokens += _colour_tokens(text) if text[0] == "#" else [_word_token("style " + text.lower())]
    return tokens


def _colour_tokens(text: str) -> list[int]:
    full = text if len(text) == 7 else "#" + "".join(2 * digit for digit in text[1:])
    return [
        FIRST_LEVEL + channel * LEVELS + level * LEVELS // 256 for channel, level in enumerate(rgb_of(full.lower()))
    ]


def _word_token(word: str) -> int:
    return FIRST_WORD + zlib.crc32(word.encode("utf-8", "replace")) % WORDS


def _checked_text(html: str | bytes) -> str:
    if not isinstance(html, str | bytes):
        raise InvalidInput(f"html is {type(html).__name__}; give the page's text or bytes")
    start = html[:MOST_HTML_BYTES]
    text = start.decode("utf-8", "replace") if isinstance(start, bytes) else start
    return text.replace("\0", "\ufffd")


class _Tokens:
    """Collects tokens in the order of the document; style sheets have a budget of their own."""

    def __init__(self, length: int) -> None:
        self.length, self.style_left = length, round(length * STYLE_SHARE)
        self.collected: list[int] = []

    @property
    def is_full(self) -> bool:
        return len(self.collected) >= self.length

    def padded(self) -> list[int]:
        return (self.collected + [PADDING] * self.length)[: self.length]

    def add(self, piece: Piece) -> None:
        if piece.kind == "tag":
            self.collected.append(_TAG_TOKENS.get(piece.text, OTHER_TAG))
            self._add_attributes(piece.attributes)
        elif piece.kind == "style":
            self._add_style(piece.text)
        else:
            words = islice(_WORD.finditer(piece.text), self.length)
            self.collected += [_word_token(match[0].lower()) for match in words]

    def _add_attributes(self, given: dict[str, str]) -> None:
        if given.get("name") == "theme-color":
            self.collected += style_tokens("theme-color " + given.get("content", "")[:40])
        self.collected += [_word_token(f"class {name}") for name in given.get("class", "")[:80].split()]
        self._add_style(given.get("style", ""))

    def _add_style(self, style: str) -> None:
        taken = style_tokens(style[: MOST_STYLE_CHARACTERS_PER_TOKEN * self.length])[: self.style_left]
        self.style_left -= len(taken)
        self.collected += taken


def _open(screenshot: bytes | Image.Image) -> Image.Image:
    if isinstance(screenshot, Image.Image):
        return screenshot
    if not isinstance(screenshot, bytes):
        raise InvalidInput(f"the screenshot is {type(screenshot).__name__}; give the bytes of a PNG, JPEG or WebP file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(screenshot), formats=("PNG", "JPEG", "WEBP"))
    except UnidentifiedImageError as error:
        raise InvalidInput(
            f"the screenshot's {len(screenshot):,} bytes are no PNG, JPEG or WebP picture; save it as one of them"
        ) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InvalidInput(f"the screenshot has more than {MOST_PIXELS:,} pixels; make it smaller") from error


def _check_size(wide: int, high: int, width: int, height: int) -> None:
    seen = f"the screenshot is {wide} x {high} pixels"
    if wide < width or high < height:
        raise InvalidInput(f"{seen}, smaller than the {width} x {height} the model reads; take a larger one")
    if wide * high > MOST_PIXELS:
        raise InvalidInput(f"{seen}, more than {MOST_PIXELS:,} in all; make it smaller")
    if wide > MOST_ASPECT * high:
        raise InvalidInput(f"{seen}, more than {MOST_ASPECT:g} times as wide as high; show the top of the whole page")
