"""Colours as people see them: hexadecimal text, CIE Lab, distances and names.

Distances in RGB say little about what looks alike; Lab was made so that a distance of about 2.3 is the smallest that is
noticed (CIE 1976). Sources: IEC 61966-2-1 (sRGB), CIE 15 (Lab, white point D65); the names are those of CSS.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from hybrid_core.errors import InvalidInput

# Linear sRGB to XYZ, each row divided by the white point of D65.
_XYZ = torch.tensor(
    [
        [0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883],
    ],
    dtype=torch.float64,
)
_HEX = re.compile(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", re.IGNORECASE)
NAMED = {
    "black": "#000000", "dim grey": "#696969", "silver": "#c0c0c0", "white": "#ffffff", "ivory": "#fffff0",
    "beige": "#f5f5dc", "tan": "#d2b48c", "sienna": "#a0522d", "maroon": "#800000", "crimson": "#dc143c",
    "tomato": "#ff6347", "coral": "#ff7f50", "orange": "#ffa500", "gold": "#ffd700", "olive": "#808000",
    "yellow green": "#9acd32", "forest green": "#228b22", "sea green": "#2e8b57", "medium aquamarine": "#66cdaa",
    "teal": "#008080", "turquoise": "#40e0d0", "steel blue": "#4682b4", "dodger blue": "#1e90ff",
    "royal blue": "#4169e1", "navy": "#000080", "slate blue": "#6a5acd", "indigo": "#4b0082",
    "dark orchid": "#9932cc", "plum": "#dda0dd", "deep pink": "#ff1493", "lavender": "#e6e6fa",
    "midnight blue": "#191970", "honeydew": "#f0fff0", "misty rose": "#ffe4e1", "dark slate grey": "#2f4f4f",
}  # fmt: skip


def hex_of(rgb: tuple[int, int, int]) -> str:
    """Hexadecimal text.

    >>> hex_of((70, 130, 180))
    '#4682b4'
    """
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def rgb_of(text: str) -> tuple[int, int, int]:
    """The three levels of '#rrggbb'.

    >>> rgb_of("#4682b4")
    (70, 130, 180)
    """
    match = _HEX.fullmatch(text)
    if match is None:
        raise InvalidInput(f"colour {text!r:.40} is not of the form '#rrggbb'; write six hexadecimal digits after '#'")
    return int(match[1], 16), int(match[2], 16), int(match[3], 16)


def lab_of(colours: Tensor) -> Tensor:
    """Colours of sRGB (..., 3) in [0, 1] to CIE Lab (..., 3), L from 0 to 100.

    >>> [round(x) for x in lab_of(torch.tensor([1.0, 0.0, 0.0])).tolist()]
    [53, 80, 67]
    """
    levels = colours.double().clamp(0, 1)
    linear = torch.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.to(linear.device).T
    bent = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-12) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = bent.unbind(-1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-1)


def lab_distances(first: Tensor, second: Tensor) -> Tensor:
    """CIE 1976 distances between colours (..., 3) in [0, 1]."""
    distances: Tensor = torch.linalg.vector_norm(lab_of(first) - lab_of(second), dim=-1)
    return distances


def lab_distance(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    """CIE 1976 distance of two colours given as levels from 0 to 255."""
    return float(lab_distances(torch.tensor(first) / 255, torch.tensor(second) / 255))


def colour_name(rgb: tuple[int, int, int]) -> str:
    """The named colour that looks most alike.

    >>> colour_name((72, 128, 182))
    'steel blue'
    """
    table = torch.tensor([rgb_of(text) for text in NAMED.values()]) / 255
    return list(NAMED)[int(lab_distances(table, torch.tensor(rgb) / 255).argmin())]
