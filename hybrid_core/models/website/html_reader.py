"""Cuts HTML into tags, text and style sheets in time proportional to its length, and executes nothing.

The standard library's `html.parser` takes minutes for 100 KB of "<a <a <a ": its patterns look back again and again. A
website is a stranger's text, so every pattern here is possessive (it never tries a second way) and a tag's length is
limited. What is lost is what only a browser mends: a tag is what looks like one.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

MOST_TAG_CHARACTERS = 4000
# What stands inside these is not markup. Only the style sheet and the title are handed on.
_RAW = ("script", "style", "title", "textarea", "noscript", "template", "svg", "iframe")
_CLOSING = {tag: re.compile(rf"</{tag}\b[^>]{{0,100}}+>?", re.IGNORECASE) for tag in _RAW}
_QUOTED = rf""""[^"]{{0,{MOST_TAG_CHARACTERS}}}+"|'[^']{{0,{MOST_TAG_CHARACTERS}}}+'"""
_PIECE = re.compile(
    rf"""<!--(?:[^-]++|-(?!->))*+(?:-->)?    # a comment, up to the end where it is not closed
    | <(?P<end>/?)(?P<tag>[A-Za-z][A-Za-z0-9-]{{0,40}}+)
      (?P<attributes>(?:[^<>"']|{_QUOTED}){{0,{MOST_TAG_CHARACTERS}}}+)>
    | <[!?][^<>]{{0,{MOST_TAG_CHARACTERS}}}+>?
    | (?P<text>[^<]++|<)""",
    re.VERBOSE,
)
_ATTRIBUTE = re.compile(
    rf"""([A-Za-z_:][\w:.-]{{0,60}}+)\s*+=\s*+(?:"([^"]{{0,{MOST_TAG_CHARACTERS}}}+)"|'([^']{{0,{MOST_TAG_CHARACTERS}}}+)'|([^\s"'>]++))"""
)


class Piece(NamedTuple):
    """`kind` is tag, text, style or title; a tag has its lower-case name as `text` and its attributes."""

    kind: str
    text: str
    attributes: dict[str, str]


def read_html(source: str) -> Iterator[Piece]:
    """The pieces in the order of the document; comments, scripts and closing tags are dropped."""
    at = 0
    while at < len(source):
        match = _PIECE.match(source, at)
        assert match is not None, "every character is text or begins something"
        at = match.end()
        if match["text"] is not None:
            yield Piece("text", html.unescape(match["text"]), {})
        elif match["tag"] is not None and not match["end"]:
            tag = match["tag"].lower()
            yield Piece("tag", tag, _attributes(match["attributes"]))
            if tag in _RAW and not match["attributes"].endswith("/"):
                content, at = _raw_content(source, at, tag)
                if tag in ("style", "title"):
                    yield Piece(tag, content if tag == "style" else html.unescape(content), {})


def _raw_content(source: str, at: int, tag: str) -> tuple[str, int]:
    closing = _CLOSING[tag].search(source, at)
    return (source[at:], len(source)) if closing is None else (source[at : closing.start()], closing.end())


def _attributes(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, double, single, bare in _ATTRIBUTE.findall(text):
        found.setdefault(name.lower(), html.unescape(double or single or bare))
    return found
