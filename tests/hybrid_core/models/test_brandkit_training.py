"""The brand kit's training: every parameter learns, losses are what they are called, both halves resume."""

import math
from pathlib import Path

import pytest
import torch

from hybrid_core.models.tasks.brand import held_out_sites, held_out_tokens
from hybrid_core.models.training import brandkit
from hybrid_core.models.training.base import TrainingOptions
from hybrid_core.models.website.reading import FIRST_WORD, PADDING


def test_the_analysers_loss_reaches_every_parameter_and_falls() -> None:
    torch.manual_seed(0)
    model, generator = brandkit.fresh(), torch.Generator().manual_seed(0)
    training = brandkit._start(model, model.analyser, brandkit.ANALYSER_LEARNING_RATE, 0)
    losses = []
    for step in range(8):
        loss = brandkit.batch_loss(model.analyser.train(), held_out_sites(), held_out_tokens(256), generator)
        losses.append(training.step(loss, 0.1) if step else _loss_with_gradients(loss, model.analyser))
    assert all(math.isfinite(loss) for loss in losses)
    assert min(losses[-3:]) < losses[0]


def test_the_writers_loss_reaches_every_parameter_of_the_writer_and_no_other() -> None:
    torch.manual_seed(0)
    model = brandkit.fresh()
    for seed in range(8):
        brandkit.writer_loss(model.writer, torch.Generator().manual_seed(seed)).backward()
    untouched = [name for name, p in model.writer.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []
    assert all(p.grad is None for p in model.analyser.parameters())


def _loss_with_gradients(loss: torch.Tensor, part: torch.nn.Module) -> float:
    loss.backward()
    untouched = [name for name, p in part.named_parameters() if p.grad is None or not p.grad.any()]
    part.zero_grad()
    assert untouched == []
    return loss.item()


def test_the_contrastive_loss_is_the_mean_surprise_of_both_directions() -> None:
    html = torch.nn.functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    pictures = torch.nn.functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(2)), dim=1)
    alike = [[float(html[i] @ pictures[j]) / brandkit.TEMPERATURE for j in range(5)] for i in range(5)]
    rows = [math.log(sum(math.exp(alike[i][j]) for j in range(5))) - alike[i][i] for i in range(5)]
    columns = [math.log(sum(math.exp(alike[i][j]) for i in range(5))) - alike[j][j] for j in range(5)]
    assert brandkit.contrastive(html, pictures).item() == pytest.approx(sum(rows + columns) / 10, rel=1e-4)


def test_only_words_are_forgotten_about_as_many_as_said() -> None:
    tokens = held_out_tokens(256)
    seen = brandkit.forget_words(tokens, torch.Generator().manual_seed(0))
    changed = seen != tokens
    assert bool((tokens[changed] >= FIRST_WORD).all())
    assert bool((seen[changed] == PADDING).all())
    share = int(changed.sum()) / int((tokens >= FIRST_WORD).sum())
    assert share == pytest.approx(brandkit.FORGOTTEN_WORDS, abs=0.01)


def test_a_batch_holds_pages_of_one_length_and_in_the_long_run_all_pages() -> None:
    tokens, generator, seen = held_out_tokens(256), torch.Generator().manual_seed(0), set()
    for _ in range(60):
        rows = brandkit.pick_of_one_length(tokens, generator)
        is_short = (tokens[rows] != PADDING).sum(1) <= brandkit.SHORT_PAGE
        assert bool(is_short.all()) or not bool(is_short.any())
        seen |= set(rows.tolist())
    assert len(seen) > 0.9 * len(tokens)


def test_each_half_has_its_share_of_the_time_and_resumes_only_what_was_begun(tmp_path: Path) -> None:
    options = TrainingOptions.of("brandkit", 28.0, state=tmp_path / "brandkit-tiny.safetensors", resume=True)
    (tmp_path / "brandkit-tiny-analyser.safetensors").touch()
    analyser = brandkit._part(options, "analyser", brandkit.ANALYSER_SHARE)
    writer = brandkit._part(options, "writer", 1 - brandkit.ANALYSER_SHARE)
    assert analyser.minutes + writer.minutes == pytest.approx(28.0)
    assert (analyser.resume, writer.resume) == (True, False)
    assert analyser.state != writer.state
