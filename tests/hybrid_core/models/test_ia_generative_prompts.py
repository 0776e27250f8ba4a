"""The grammar of prompts: what is held out stays held out, and every text becomes tokens or a clear refusal."""

from __future__ import annotations

import re

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.models.drawing.diffusion import PADDING, START
from hybrid_core.models.drawing.prompts import (
    HELD_OUT_SENTENCES,
    WORDS,
    encode,
    held_out,
    nonsense_phrasing,
    phrase,
    phrasings,
    random_prompts,
)


def texts(some):
    return {phrase(phrasing, digit, word) for phrasing in some for digit in range(10) for word in (True, False)}


def test_no_training_prompt_is_a_held_out_one():
    trained, combinations = phrasings()
    assert not texts(trained) & texts((*combinations, *HELD_OUT_SENTENCES))
    assert len(trained) > 4 * len(combinations) * 0.8
    assert set(held_out()) == {*combinations, *HELD_OUT_SENTENCES}


def test_drawn_training_prompts_are_not_held_out_even_with_nonsense():
    generator = torch.Generator().manual_seed(0)
    drawn = random_prompts(torch.arange(3000) % 10, generator, nonsense_share=0.5)
    assert not set(drawn) & texts(held_out())
    assert len(set(drawn)) > 2000


def test_held_out_sentences_have_words_that_the_grammar_lacks():
    known = set(re.findall("[a-z]+", " ".join(phrasings()[0])))
    for sentence in HELD_OUT_SENTENCES:
        assert set(re.findall("[a-z]+", sentence)) - known, sentence


def test_every_prompt_names_its_digit_and_no_other():
    generator = torch.Generator().manual_seed(1)
    digits = torch.arange(2000) % 10
    for digit, prompt in zip(digits.tolist(), random_prompts(digits, generator, 0.5), strict=True):
        named = {WORDS.index(name) for name in WORDS if name in prompt} | {int(f) for f in re.findall(r"\d", prompt)}
        assert named == {digit}, prompt


def test_every_prompt_of_the_grammar_fits_the_tiny_model():
    every = [phrase(p, d, w) for p in (*phrasings()[0], *held_out()) for d in range(10) for w in (True, False)]
    assert encode(every, 48).shape == (len(every), 48)
    generator = torch.Generator().manual_seed(2)
    assert all(len(nonsense_phrasing(generator).format("seven")) <= 47 for _ in range(2000))


def test_tokens_are_the_lower_case_bytes_between_start_and_padding():
    tokens = encode([" A Seven\t", "été"], 12)
    assert tokens[0].tolist() == [START, *b"a seven", *[PADDING] * 4]
    assert tokens[1].tolist() == [START, *"été".encode(), *[PADDING] * 6]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("a" * 48, "has 48 bytes; shorten it to at most 47"),
        ("é" * 24, "has 48 bytes"),
        ("a seven\x00", "control character"),
        ("a\nseven", "control character"),
        (7, "type int"),
        (b"a seven", "type bytes"),
        (None, "type NoneType"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_reason(prompt, reason):
    with pytest.raises(InvalidInput, match=reason):
        encode([prompt], 48)


def test_the_longest_prompt_is_taken_and_a_broken_character_does_not_crash():
    assert (encode(["a" * 47], 48) != PADDING).all()
    with pytest.raises(InvalidInput, match="control character"):
        encode(["seven \ud800"], 48)
