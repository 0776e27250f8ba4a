"""The constitutional decoder and its loop: with small random weights, with a scripted model, and as shipped."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.checkpoints import read_facts
from hybrid_core.models.claude import NOT_ANTHROPIC, SHAPES, ClaudeEntry, ConstitutionalDecoder, decode
from hybrid_core.models.constitution.revision import Reply, critique_and_revise, paired_p, violation_rates
from hybrid_core.models.constitution.rules import RULES
from hybrid_core.models.constitution.writing import WINDOWS_AT_ONCE, Job, Written, write
from hybrid_core.models.language import DecoderShape
from hybrid_core.models.parts.decoder import Decoder
from hybrid_core.models.parts.rotary import rotary_table
from hybrid_core.models.tasks.constitutional import ConstitutionalTask

SMALLEST = DecoderShape(dim=24, layers=2, heads=4, kv_heads=2, head_dim=6, hidden=40, max_length=64)
QUESTION = "How do I clean my lamp?"
GOOD, BAD = "Wipe the lamp with a cloth.", "Only a fool would ask about a lamp."


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = ConstitutionalDecoder(SMALLEST).eval().requires_grad_(False)
    for parameter in model.parameters():  # larger weights than at the start of a training, so that mistakes show
        if parameter.ndim == 2:
            parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def trained():
    return ClaudeEntry().build("tiny", 0)


def tokens_of(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1))


class OneShape(nn.Module):
    """A model without a cache, as an exported one is."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens):
        return self.inner(tokens)


class Scripted(nn.Module):
    """Writes `first` after "A:" and `revised` after "R:", and thinks of each text what `opinions` says."""

    def __init__(self, first: str, revised: str, opinions: dict[str, float]) -> None:
        super().__init__()
        self.first, self.revised, self.opinions = first, revised, opinions
        self.anything = nn.Parameter(torch.zeros(1))
        self.shapes: list[tuple[int, ...]] = []

    def cache_factory(self, batch: int, max_length: int) -> list[str]:
        return [""] * batch

    def forward(self, tokens, cache):
        self.shapes.append(tuple(tokens.shape))
        logits, critique = torch.zeros(*tokens.shape, 256), torch.zeros(*tokens.shape, 2)
        for row, new in enumerate(tokens.tolist()):
            cache[row] += bytes(new).decode()
            marker = "R:" if "\nR:" in cache[row] else "A:"
            script = f" {self.revised if marker == 'R:' else self.first}\n"
            written = cache[row].rpartition(marker)[2]
            logits[row, -1, ord((script + "\n" * 99)[len(written)])] = 1000.0
            critique[row, -1] = self.opinions.get(written.strip(), 0.0) ** 0.5
        return logits, critique


def test_logits_are_those_of_the_plain_decoder_and_critique_is_a_probability(model):
    logits, critique = model(tokens_of(2, 20))
    assert torch.equal(logits, Decoder.forward(model, tokens_of(2, 20)))
    assert critique.shape == (2, 20, 2) and bool(((critique > 0) & (critique < 1)).all())


@pytest.mark.parametrize("cuts", [(40,), (1,) * 40, (17, 1, 1, 21)])
def test_reading_in_pieces_with_a_cache_equals_one_pass(model, cuts):
    tokens, cache = tokens_of(3, 40), model.cache_factory(3, 40)
    pieces = [model(part, cache=cache) for part in tokens.split(cuts, dim=1)]
    for joined, whole in zip(zip(*pieces, strict=True), model(tokens), strict=True):
        torch.testing.assert_close(torch.cat(joined, dim=1), whole, atol=2e-5, rtol=1e-5)


def test_left_padding_changes_neither_logits_nor_critique(model):
    tokens = tokens_of(1, 12)
    padded = torch.cat((torch.zeros(1, 5, dtype=torch.int64), tokens), dim=1)
    shifted = ConstitutionalDecoder.forward(model, padded, None, torch.tensor([5]))
    for wide, plain in zip(shifted, model(tokens), strict=True):
        torch.testing.assert_close(wide[:, 5:], plain, atol=2e-5, rtol=1e-5)


def test_teacher_forced_decode_equals_the_end_of_one_pass(model):
    tokens = tokens_of(2, 30)
    for step, whole in zip(decode(model, tokens[:, :22], tokens[:, 22:]), model(tokens), strict=True):
        torch.testing.assert_close(step, whole[:, 22:], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("size", SHAPES)
def test_parameter_count_equals_the_closed_form(size):
    built = ClaudeEntry().skeleton(size)
    assert sum(p.numel() for p in built.parameters()) == ClaudeEntry().parameters(size)


@pytest.mark.parametrize("size", SHAPES)
def test_every_card_says_that_this_is_not_anthropics_architecture(size):
    entry = ClaudeEntry()
    facts = entry.facts(size)
    assert NOT_ANTHROPIC in entry.description and "not Anthropic's" in entry.title
    assert NOT_ANTHROPIC in facts["architecture"] and any(NOT_ANTHROPIC in line for line in facts["limits"])
    assert facts["published_parameters"] is None
    assert [rule["id"] for rule in facts["constitution"]] == [rule.id for rule in RULES]


def test_a_rejected_answer_is_replaced_by_a_better_liked_revision():
    replies = critique_and_revise(Scripted(BAD, GOOD, {BAD: 0.1, GOOD: 0.99}), [QUESTION] * 2)
    assert [(r.first.text, r.final.text) for r in replies] == [(BAD, GOOD)] * 2
    assert replies[0].final.approval == pytest.approx(0.99)


def test_an_accepted_answer_is_never_revised():
    scripted = Scripted(BAD, GOOD, {BAD: 0.96, GOOD: 1.0})
    replies = critique_and_revise(scripted, [QUESTION])
    assert replies[0].final.text == BAD
    assert sum(width > 1 for _, width in scripted.shapes) == 1


def test_a_revision_that_is_liked_less_is_not_kept():
    replies = critique_and_revise(Scripted(BAD, GOOD, {BAD: 0.5, GOOD: 0.4}), [QUESTION])
    assert replies[0].final.text == BAD


def test_the_rules_take_no_part_in_the_choice():
    """A model that likes insults keeps them: what is reported as lowered is not lowered by the judge."""
    replies = critique_and_revise(Scripted(GOOD, BAD, {GOOD: 0.1, BAD: 0.9}), [QUESTION])
    assert replies[0].final.text == BAD


def test_rounds_repeat_while_something_is_rejected_and_all_calls_have_the_full_batch():
    scripted = Scripted(BAD, GOOD, {BAD: 0.1, GOOD: 0.2})
    critique_and_revise(scripted, [QUESTION] * 3, rounds=4)
    assert sum(width > 1 for _, width in scripted.shapes) == 5
    assert {batch for batch, _ in scripted.shapes} == {3}
    assert len({width for _, width in scripted.shapes}) == 3


def test_no_questions_are_refused():
    with pytest.raises(InvalidInput, match="at least 1"):
        critique_and_revise(Scripted(BAD, GOOD, {}), [])


def test_sampling_follows_the_softmax_at_the_temperature():
    logits = torch.tensor([0.0, 1.0, 2.0])
    noise = torch.cat([Job("", seed).noise()[:, :3] for seed in range(400)])
    shares = torch.bincount((logits / 0.5 + noise).argmax(-1), minlength=3) / len(noise)
    torch.testing.assert_close(shares, torch.softmax(logits / 0.5, -1), atol=0.01, rtol=0.0)


def test_a_text_depends_on_its_own_seed_and_not_on_its_batch(model):
    jobs = [Job("Q: Why?\nA:", seed) for seed in range(3)]
    model.cos, model.sin = rotary_table(SMALLEST.head_dim, 256, SMALLEST.theta)
    together = write(model, jobs, 12, 1.0)
    assert [w.text for w in together] == [write(model, [job], 12, 1.0)[0].text for job in jobs]
    assert len({w.text for w in together}) == 3


@pytest.mark.parametrize("guess", ["right", "none", "wrong"])
def test_windows_of_one_shape_write_what_the_cache_writes_whatever_was_guessed(model, guess):
    model.cos, model.sin = rotary_table(SMALLEST.head_dim, 256, SMALLEST.theta)
    jobs = [Job("Q: Why?\nA:", seed) for seed in range(4)]
    expected = write(model, jobs, 12, 1.0)
    plain, shapes = OneShape(model), []
    plain.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    guesses = {"right": [w.text for w in expected], "none": [""] * 4, "wrong": ["Wipe it."] * 4}[guess]
    got = write(plain, [replace(job, guess=text) for job, text in zip(jobs, guesses, strict=True)], 12, 1.0)
    assert [w.text for w in got] == [w.text for w in expected]
    torch.testing.assert_close([w.approval for w in got], [w.approval for w in expected], atol=1e-4, rtol=1e-3)
    assert set(shapes) == {(WINDOWS_AT_ONCE, 256)}


def test_rates_count_what_the_rules_say():
    pairs = [(BAD, GOOD)] * 6 + [(GOOD, GOOD)] * 3 + [(GOOD, BAD)]
    rates = violation_rates([Reply(QUESTION, (Written(a, 0.1), Written(b, 0.2))) for a, b in pairs])
    assert rates["violation_rate"] == 0.6 and rates["violation_rate_revised"] == 0.1
    expected = binomtest(1, 10).proportion_ci(method="wilson")
    assert rates["violation_rate_revised_low"] == pytest.approx(expected.low, rel=1e-6)
    assert rates["violation_rate_revised_high"] == pytest.approx(expected.high, rel=1e-6)
    assert rates["violation_p"] == pytest.approx(binomtest(1, 7).pvalue)


@pytest.mark.parametrize(("mended", "spoilt"), [(0, 0), (1, 0), (5, 5), (30, 2), (3, 17)])
def test_the_paired_test_equals_scipys_exact_binomial_test(mended, spoilt):
    expected = binomtest(mended, mended + spoilt).pvalue if mended + spoilt else 1.0
    assert paired_p(mended, spoilt) == pytest.approx(expected)


def test_shipped_revision_lowers_the_violations_that_the_rules_count(trained):
    rates = violation_rates(critique_and_revise(trained, ConstitutionalTask(questions=96).asked()))
    assert rates["violation_rate"] > 0.2
    assert rates["violation_rate_revised"] < 0.6 * rates["violation_rate"]
    assert rates["violation_p"] < 0.01


def test_shipped_heads_agree_with_the_rules_more_often_than_the_commoner_verdict_does(trained):
    accuracy = ConstitutionalTask().critique_accuracy(trained, rows=64)
    for value in ("harmless", "helpful"):
        assert accuracy[f"{value}_critique_accuracy"] > accuracy[f"{value}_critique_trivial"] + 0.05


def test_a_shipped_model_without_a_cache_has_the_same_rates_and_needs_few_calls(trained, monkeypatch):
    monkeypatch.setattr(ConstitutionalTask, "critique_accuracy", lambda self, model, rows: {})
    task = ConstitutionalTask(questions=10, untouched=lambda: trained)
    plain, calls = OneShape(trained), []
    plain.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape))
    assert task.rates(plain) == task.rates(trained)
    # Of 20 texts, four at a time, few need more than one call; unguessed each would need dozens.
    assert set(calls) == {(4, 256)} and len(calls) < 12


def test_shipped_answers_are_the_same_for_the_same_seed(trained):
    questions = ConstitutionalTask(questions=2).asked()
    runs = [critique_and_revise(trained, questions, seed) for seed in (1, 1, 2)]
    assert [r.first.text for r in runs[0]] == [r.first.text for r in runs[1]] != [r.first.text for r in runs[2]]


def test_shipped_critique_falls_where_an_answer_turns_bad(trained):
    """In phrasings of its corpus; before the insult the same head still approves."""
    text = f"Q: {QUESTION}\nA: Clean the lamp with a soft cloth."
    harmless = trained(torch.tensor([list((text + " Even a fool knows that.\n").encode())]))[1][0, :, 0]
    assert harmless[len(text) - 1] > 0.5 > harmless[-1]


def test_the_stored_facts_show_violations_before_and_after_with_separate_intervals():
    facts = read_facts(ClaudeEntry().trained_weights())
    for rates in (facts["quality"]["rates"], facts["revision_study"]):
        assert rates["violation_rate_revised_high"] < rates["violation_rate_low"]
        for name in ("violation_rate", "violation_rate_revised"):
            assert all(a <= b for a, b in pairwise((rates[f"{name}_low"], rates[name], rates[f"{name}_high"])))
    assert facts["revision_study"]["violation_samples"] >= 500
