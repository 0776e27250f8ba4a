"""The words a brand profile is made of: the classes of tone, layout and typography, and the roles of the five colours.

One place for analysis, writer, task, generator and page, so that class 3 means the same everywhere. Each class has the
sentence that the page shows and that the generator of training sites must make true.
"""

from __future__ import annotations

TONES = {
    "playful": "jokes and bounces",
    "formal": "keeps its distance and its form",
    "luxurious": "praises rarity and craft",
    "technical": "counts, measures and specifies",
    "warm": "speaks of home, care and people",
    "bold": "shouts, dares and wins",
    "calm": "slows down and breathes",
    "rebellious": "breaks rules on purpose",
}
LAYOUTS = {
    "centred": "one centred opening, sections in a row beneath",
    "split": "words on the left of the opening, picture on the right",
    "mirrored": "picture on the left of the opening, words on the right",
    "sidebar": "a coloured column beside everything",
    "cards": "a grid of boxes",
    "magazine": "running text in columns",
    "stacked": "bands over the whole width, one below the other",
    "list": "rows, each with a small picture in front",
}
TYPOGRAPHIES = {
    "grotesque": "sans-serif throughout",
    "airy": "thin sans-serif headings",
    "condensed": "narrow letters throughout",
    "capitals": "heavy, spaced capitals as headings",
    "serif": "serifs throughout",
    "editorial": "serif headings over sans-serif text",
    "literary": "sans-serif headings over serif text",
    "monospace": "every letter equally wide",
}
ROLES = ("background", "text", "primary", "surface", "accent")
ASPECTS = {"tone": tuple(TONES), "layout": tuple(LAYOUTS), "typography": tuple(TYPOGRAPHIES)}
CLASSES = 8
MOST_NAME_BYTES = 16
KINDS = ("tagline", "about", "button", "css")
"""What the writer can be asked for; the position decides the first byte of a text."""

assert all(len(names) == CLASSES for names in ASPECTS.values())
