"""Makes websites whose truth is known: real HTML and CSS with a tone, a layout, a typography and five colours.

Half of the sites carry their style sheet in the page, half link to it, so that there only the picture tells layout,
letters and colours; the tone is only in the words. A quarter of the sites declares another brand's colour in its
`theme-color`, a quarter ends in the opposite tone: those are inconsistent, and saying so is one of the tasks.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

from hybrid_core.models.training import site_words
from hybrid_core.models.training.site_styles import Palette, make_palette, make_style
from hybrid_core.models.website.colours import hex_of, lab_distance
from hybrid_core.models.website.labels import LAYOUTS, TONES, TYPOGRAPHIES

TYPICAL_SHARE = 0.3
LINKED_SHARE = 0.5
VIOLATIONS = ("", "", "colour", "tone")
STYLESHEET_LINK = '<link rel="stylesheet" href="/brand.css">'
# tone -> typography it often chooses, share of dark pages, range of saturation
_HABITS: dict[str, tuple[str, float, tuple[float, float]]] = {
    "playful": ("grotesque", 0.1, (0.7, 1.0)),
    "formal": ("serif", 0.1, (0.2, 0.7)),
    "luxurious": ("editorial", 0.7, (0.2, 0.7)),
    "technical": ("monospace", 0.5, (0.4, 1.0)),
    "warm": ("literary", 0.1, (0.4, 0.8)),
    "bold": ("capitals", 0.4, (0.8, 1.0)),
    "calm": ("airy", 0.1, (0.15, 0.5)),
    "rebellious": ("condensed", 0.6, (0.6, 1.0)),
}
_LEAST_DRIFT = 40.0  # CIE 1976 between the colour used and a wrongly declared one


@dataclass(frozen=True)
class Site:
    """One website and the truth about it; `style` is what the browser applies, `html` what a visitor downloads."""

    name: str
    html: str
    style: str
    tone: str
    layout: str
    typography: str
    palette: Palette
    declared: str
    violation: str

    @property
    def is_consistent(self) -> bool:
        """Whether declared colour, picture and words belong to one brand."""
        return not self.violation

    def to_json(self) -> dict[str, Any]:
        """All fields but the style sheet, which is only needed to render."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("style", "palette")}
        return {**kept, "palette": {role: hex_of(rgb) for role, rgb in self.palette.items()}}


def make_sites(count: int, seed: int) -> list[Site]:
    """`count` sites; the same seed gives the same sites, and a longer list begins with the shorter one."""
    return [make_site(random.Random(seed * 1_000_003 + index)) for index in range(count)]


def make_site(source: random.Random) -> Site:
    """One site."""
    tone, layout, name = source.choice(list(TONES)), source.choice(list(LAYOUTS)), site_words.make_name(source)
    habit, dark_share, saturation = _HABITS[tone]
    typography = habit if source.random() < TYPICAL_SHARE else source.choice(list(TYPOGRAPHIES))
    palette = make_palette(source, dark_share, saturation)
    style, violation = make_style(palette, layout, typography, source), source.choice(VIOLATIONS)
    declared = hex_of(_foreign_primary(palette, source) if violation == "colour" else palette["primary"])
    is_linked = source.random() < LINKED_SHARE
    html = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="theme-color" content="{declared}">'
        f"{STYLESHEET_LINK if is_linked else f'<style>{style}</style>'}</head>"
        f"<body>{_body(name, tone, violation == 'tone', source)}</body></html>"
    )
    return Site(name, html, style, tone, layout, typography, palette, declared, violation)


def _foreign_primary(palette: Palette, source: random.Random) -> tuple[int, int, int]:
    while True:
        other = make_palette(source, 0.3, (0.4, 1.0))["primary"]
        if lab_distance(other, palette["primary"]) > _LEAST_DRIFT:
            return other


def _body(name: str, tone: str, ends_in_opposite: bool, source: random.Random) -> str:
    trade, strength = source.choice(list(site_words.TRADES)), source.uniform(0.1, 0.6)
    articles = source.randint(3, 6)

    def write(pattern: str, foreign: bool = False) -> str:
        voice = (site_words.OPPOSITE[tone], 0.6) if foreign else (tone, strength)
        return site_words.fill(pattern, name, trade, *voice, source)

    def article(foreign: bool) -> str:
        title, text = source.choice(site_words.SECTION_TITLES), source.choice(site_words.SENTENCES)
        return f"<article><h2>{write(title, foreign)}</h2><p>{write(text, foreign)}</p></article>"

    foreign_from = (articles + 1) // 2 if ends_in_opposite else articles
    links = "".join(f"<a>{word}</a>" for word in source.sample(("Home", "Work", "About", "News", "Shop", "Help"), 3))
    return (
        f"<header><b>{name}</b><nav>{links}</nav></header><main>"
        f'<section class="hero"><div><h1>{write(source.choice(site_words.HEADLINES))}</h1>'
        f"<p>{write(source.choice(site_words.SENTENCES))} {write(source.choice(site_words.SENTENCES))}</p>"
        f'<a class="button">{write("{action}")}</a></div><figure></figure></section>'
        f'<section class="items">{"".join(article(i >= foreign_from) for i in range(articles))}</section></main>'
        f"<aside>{write('{Benefit}')}</aside><footer>{write('{Benefit}', ends_in_opposite)} {name}</footer>"
    )
