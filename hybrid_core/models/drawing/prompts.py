"""The prompts that a digit is drawn from: a small grammar, its held-out part, and the way to tokens.

A prompt is an opening, a request, a noun, the digit as a word or a figure, and a manner: "please draw the number seven
in ink". One combination in five, chosen by its hash, is held out, and so are whole sentences whose words the grammar
does not have. In training some prompts are nonsense words around a digit: that teaches to look for the digit's
name instead of learning the grammar by heart.
"""

from __future__ import annotations

import functools
import hashlib
import itertools

import torch
from torch import Tensor

from hybrid_core.errors import InvalidInput
from hybrid_core.models.drawing.diffusion import PADDING, START

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OPENINGS = ("", "please ", "kindly ", "now ")
REQUESTS = ("", "draw ", "write ", "show ", "paint ")
NOUNS = ("", "a ", "the digit ", "the number ", "number ", "the figure ", "digit ")
MANNERS = ("", " in ink", " by hand", " on paper", " with a pen", " in black", ".", "!")
HELD_OUT_SENTENCES = (
    "could you sketch {} for me",
    "i would like to see {}",
    "an image of {}",
    "picture: {}",
    "make me {} quickly",
    "{}, drawn carefully",
    "give us a nice {}",
    "what does {} look like?",
    "{} as on a cheque",
    "a pencil drawing of {}",
    "render {} at low resolution",
    "handwritten {}",
)
NONSENSE_SHARE = 0.4
_HELD_OUT_EVERY = 5
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwyz", "aeiou"


def encode(prompts: list[str], length: int) -> Tensor:
    """Lower-case UTF-8 bytes as tokens (prompts, length) int64: START, the bytes, padding.

    Raises:
        InvalidInput: a prompt is no text, is empty, holds a control character, or has more than `length` - 1 bytes.
    """
    tokens = torch.full((len(prompts), length), PADDING)
    for row, prompt in enumerate(prompts):
        content = (START, *_checked_bytes(prompt, length - 1))
        tokens[row, : len(content)] = torch.tensor(content)
    return tokens


def _checked_bytes(prompt: str, most: int) -> bytes:
    if not isinstance(prompt, str):
        raise InvalidInput(f"a prompt of type {type(prompt).__name__} is not allowed; give a text such as 'a seven'")
    text = prompt.strip().lower()
    if not text:
        raise InvalidInput(f"the prompt {prompt!r:.60} is empty; say which digit to draw, for example 'a seven'")
    strange = next((character for character in text if not character.isprintable()), None)
    if strange is not None:
        raise InvalidInput(f"the prompt holds the control character {strange!r}; use printable characters on one line")
    content = text.encode(errors="replace")
    if len(content) > most:
        raise InvalidInput(f"the prompt {prompt!r:.60} has {len(content)} bytes; shorten it to at most {most}")
    return content


@functools.cache
def phrasings() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(those of the grammar that are trained on, those held out), each with {} where the digit stands."""
    every = [f"{o}{r}{n}{{}}{m}" for o, r, n, m in itertools.product(OPENINGS, REQUESTS, NOUNS, MANNERS)]
    chosen = [hashlib.sha256(phrasing.encode()).digest()[0] % _HELD_OUT_EVERY == 0 for phrasing in every]
    trained = tuple(p for p, out in zip(every, chosen, strict=True) if not out)
    return trained, tuple(p for p, out in zip(every, chosen, strict=True) if out)


def phrase(phrasing: str, digit: int, as_word: bool) -> str:
    """Put a digit into a phrasing.

    >>> phrase("draw a {}", 8, True), phrase("the number {}", 8, False)
    ('draw an eight', 'the number 8')
    """
    name = WORDS[digit] if as_word else str(digit)
    article = phrasing.startswith("a {") or " a {" in phrasing
    return phrasing.replace("a {}", "an {}").format(name) if article and digit == 8 else phrasing.format(name)


def random_prompts(digits: Tensor, generator: torch.Generator, nonsense_share: float = 0.0) -> list[str]:
    """A prompt for each digit (n,), from the phrasings that are trained on, `nonsense_share` of them nonsense."""
    trained = phrasings()[0]
    picks = torch.randint(len(trained), (len(digits),), generator=generator).tolist()
    words = (torch.rand(len(digits), generator=generator) < 0.5).tolist()
    nonsense = (torch.rand(len(digits), generator=generator) < nonsense_share).tolist()
    return [
        phrase(nonsense_phrasing(generator) if odd else trained[pick], digit, word)
        for digit, pick, word, odd in zip(digits.tolist(), picks, words, nonsense, strict=True)
    ]


def nonsense_phrasing(generator: torch.Generator) -> str:
    """Up to three invented words on either side of the digit, never one that names a digit."""
    before, after = torch.randint(4, (2,), generator=generator).tolist()
    words = [_invented_word(generator) for _ in range(before + after)]
    phrasing = " ".join((*words[:before], "{}", *words[before:]))
    return nonsense_phrasing(generator) if len(phrasing) > 40 or phrasing in held_out() else phrasing


def _invented_word(generator: torch.Generator) -> str:
    letters = torch.randint(10_000, (int(torch.randint(1, 8, (), generator=generator)),), generator=generator).tolist()
    start = letters[0] % 2
    word = "".join((_CONSONANTS, _VOWELS)[(i + start) % 2][n % (19, 5)[(i + start) % 2]] for i, n in enumerate(letters))
    return _invented_word(generator) if any(name in word for name in WORDS) else word


@functools.cache
def held_out() -> tuple[str, ...]:
    """Phrasings that no training prompt has: sentences with new words and new combinations of known words, in turn."""
    combinations = phrasings()[1]
    return tuple(
        itertools.chain.from_iterable(
            (HELD_OUT_SENTENCES[i % len(HELD_OUT_SENTENCES)], combination) for i, combination in enumerate(combinations)
        )
    )
