"""The style sheets of the generated websites: eight layouts, eight typographies, palettes with a role for each colour.

The document is the same whatever the style, as style sheets are meant to work: so a layout can only be told from the
style sheet or from the picture. Sizes are those of a window of 480 x 360.
"""

from __future__ import annotations

import colorsys
import random

from hybrid_core.models.website.colours import hex_of, lab_distance
from hybrid_core.models.website.labels import ROLES

Rgb = tuple[int, int, int]
Palette = dict[str, Rgb]

_SANS = ("Helvetica, Arial, sans-serif", "Inter, sans-serif", "'Open Sans', sans-serif", "system-ui, sans-serif")
_SERIF = ("Georgia, serif", "'Times New Roman', serif", "Garamond, serif", "'Playfair Display', serif")
_MONO = ("Menlo, monospace", "'Courier New', monospace", "Consolas, monospace", "monospace")
_NARROW = ("'Roboto Condensed', 'DejaVu Sans Condensed', sans-serif", "'DejaVu Sans Condensed', Arial, sans-serif")
_THIN = ("'Helvetica Light', 'DejaVu Sans', sans-serif", "'DejaVu Sans Light', 'DejaVu Sans', sans-serif")
# typography -> fonts of headings, fonts of text, what else headings get
FONTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "grotesque": (_SANS, _SANS, "font-weight:700"),
    "airy": (_THIN, _THIN, "font-weight:200;letter-spacing:1px"),
    "condensed": (_NARROW, _NARROW, "font-weight:700;font-stretch:condensed;letter-spacing:-.5px"),
    "capitals": (_SANS, _SANS, "font-weight:900;text-transform:uppercase;letter-spacing:2px"),
    "serif": (_SERIF, _SERIF, "font-weight:700"),
    "editorial": (_SERIF, _SANS, "font-weight:400"),
    "literary": (_SANS, _SERIF, "font-weight:600"),
    "monospace": (_MONO, _MONO, "font-weight:700"),
}
LAYOUT_RULES = {
    "centred": ".hero{text-align:center;padding:18px 60px}figure{height:36px;margin:8px auto;width:180px}"
    ".items{display:flex}article{flex:1;text-align:center}aside{display:none}",
    "split": ".hero{display:grid;grid-template-columns:1fr 1fr;gap:14px}figure{height:150px}"
    ".items{display:flex}article{flex:1}aside{display:none}",
    "mirrored": ".hero{display:grid;grid-template-columns:1fr 1fr;gap:14px}figure{height:150px;order:-1}"
    ".items{display:flex}article{flex:1}aside{display:none}",
    "sidebar": "main,header{margin-left:112px}aside{position:absolute;left:0;top:0;width:112px;height:100%}"
    "figure{height:44px;margin-top:8px}",
    "cards": "figure,.hero p{display:none}"
    ".items{display:grid;grid-template-columns:repeat(3,1fr);gap:18px;padding:8px 24px}"
    "article{background:var(--surface);border-top:6px solid var(--accent)}aside{display:none}",
    "magazine": "main{columns:3;column-gap:14px;padding:10px}.hero,article{padding:0 0 8px}figure{height:40px}"
    "aside{display:none}",
    "stacked": ".hero{padding:10px 14px 8px}figure{display:none}article{padding:8px 14px}"
    "article:nth-child(odd){background:var(--surface)}article:nth-child(3n+2){background:var(--primary);"
    "color:var(--background)}aside{display:none}",
    "list": ".hero p,figure{display:none}article{display:grid;grid-template-columns:46px 1fr;column-gap:12px}"
    "article::before{content:'';background:var(--accent);height:38px;grid-row:span 2}aside{display:none}",
}
_LEAST_DISTANCE = 12.0  # CIE 1976 between any two of background, primary, accent, so that roles can be told apart


def make_palette(random_source: random.Random, dark_share: float, saturation: tuple[float, float]) -> Palette:
    """Five colours: primary and accent by a rule of hues, the rest of their family; text stands out from background."""
    while True:
        hue, turn = random_source.random(), random_source.choice((0.08, -0.08, 1 / 3, 0.5, 0.42))
        vivid = random_source.uniform(*saturation)
        is_dark = random_source.random() < dark_share
        tint = hue + random_source.choice((0.0, 0.0, turn))
        paper, ink = random_source.uniform(0.93, 1.0), random_source.uniform(0.03, 0.22)
        background, text = (ink, paper) if is_dark else (paper, ink)
        surface = background + (0.09 if is_dark else -0.09) * random_source.uniform(0.7, 1.3)
        palette = {
            "background": _rgb(tint, background, vivid * 0.4),
            "text": _rgb(hue, text, vivid * 0.3),
            "primary": _rgb(hue, random_source.uniform(0.34, 0.6), vivid),
            "surface": _rgb(tint, surface, vivid * 0.4),
            "accent": _rgb(hue + turn, random_source.uniform(0.4, 0.65), vivid),
        }
        seen = [palette[role] for role in ("background", "primary", "accent")]
        if all(lab_distance(a, b) > _LEAST_DISTANCE for i, a in enumerate(seen) for b in seen[:i]):
            return palette


def make_style(palette: Palette, layout: str, typography: str, random_source: random.Random) -> str:
    """The whole style sheet of one site."""
    headings, texts, extra = FONTS[typography]
    size, title, radius = random_source.randint(10, 13), random_source.randint(20, 32), random_source.choice((0, 4, 14))
    colours = ";".join(f"--{role}:{hex_of(palette[role])}" for role in ROLES)
    angle = random_source.choice((0, 45, 90, 135))
    fill = random_source.choice(
        (f"linear-gradient({angle}deg,var(--primary) 50%,var(--accent) 50%)", "var(--primary)", "var(--accent)")
    )
    return (
        f":root{{{colours}}}"
        f"body{{background:var(--background);color:var(--text);font:{size}px/1.35 {random_source.choice(texts)}}}"
        f"h1,h2,b{{font-family:{random_source.choice(headings)};{extra}}}"
        f"{LAYOUT_RULES[layout]}h1{{font-size:{title}px}}.button{{background:var(--primary);border-radius:{radius}px}}"
        f"figure{{background:{fill};border-radius:{radius}px}}aside{{background:var(--primary)}}"
        "header{background:var(--surface)}h2{color:var(--primary)}"
    )


RESET = (
    "*{margin:0;box-sizing:border-box}body{min-height:100vh;overflow:hidden;position:relative}h1{line-height:1.15}"
    "header{display:flex;justify-content:space-between;padding:7px 14px}nav a{margin-left:9px;color:var(--accent)}"
    ".hero{padding:14px}.items{padding:6px 14px}article{padding:6px}article>*{overflow:hidden}h2{font-size:1.1em}"
    ".button{display:inline-block;padding:4px 12px;margin-top:7px;color:var(--background)}"
    "aside{padding:40px 10px;color:var(--background)}footer{padding:4px 14px;border-top:3px solid var(--accent)}"
)
"""What every browser window of the generator starts from; it carries no brand and is not part of any page's HTML."""


def _rgb(hue: float, lightness: float, saturation: float) -> Rgb:
    red, green, blue = colorsys.hls_to_rgb(hue % 1.0, min(1.0, max(0.0, lightness)), min(1.0, saturation))
    return round(red * 255), round(green * 255), round(blue * 255)
