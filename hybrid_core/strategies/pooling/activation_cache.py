"""Remembers the answers to the last inputs, so that the very same input is not computed twice.

It is worth something where inputs repeat (the same prompt, the same picture) and nothing where they do not: a
measurement asks fresh questions, so there it shows its price, a hash of the input and the bytes it keeps. The model
object stays the same one; its class gets a `__call__` that looks first. Source: memoization, Michie 1968 (Nature 218,
19-22).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, run_example, tensors_in
from hybrid_core.strategies.pooling.answers import AnswerCache, Question, read_question, read_standing

ENTRIES = 8
LIMIT_BYTES = 256 * 2**20


def refuse_activation_cache(model: nn.Module, situation: Situation) -> str | None:
    """The cheap reasons why answers cannot be remembered."""
    if situation.workload.kind == "decode":
        return "a decode goes on from a cache of keys and values, so the same tokens do not mean the same answer"
    if not tensors_in(situation.example_inputs):
        return "the call has no tensor input, so there is nothing to recognise"
    return None


def use_activation_cache(model: nn.Module, situation: Situation) -> Applied:
    """Remember from now on; proves on the example that the same question has the same answer."""
    _prove_repeatable(model, situation)
    cache = AnswerCache(ENTRIES, LIMIT_BYTES)
    model.answer_cache = cache  # type: ignore[assignment]
    model.__class__ = _remembering_class(type(model))
    run_example(model, situation)
    if cache.misses > ENTRIES:
        raise StrategyUnsupported(
            f"one call of the workload asks the model {cache.misses} times and only {ENTRIES} answers are remembered, "
            "so none would be left when the call is repeated"
        )
    if not len(cache):
        raise StrategyUnsupported(
            f"the call asks {type(model).__name__[len('Remembering') :]} nothing that can be compared and kept "
            f"(other methods than the model's own call, objects among the arguments, or more than "
            f"{LIMIT_BYTES / 2**20:.0f} MiB)"
        )
    change = (
        f"the last {ENTRIES} answers are remembered ({cache.nbytes / 1e6:.2f} MB after one example, at most "
        f"{LIMIT_BYTES / 1e6:.0f} MB); the very same input is answered from there, any other runs the model"
    )
    cache.forget()
    cache.hits = cache.misses = 0
    return Applied(model, (change,))


def _prove_repeatable(model: nn.Module, situation: Situation) -> None:
    """Twice the same question: equal bits, and neither the random state, the inputs nor the model may move."""
    asked = [t.clone() for t in tensors_in(situation.example_inputs)]
    first = tensors_in(run_example(model, situation))
    standing, random = read_standing(model), _random_state(situation.device)
    if standing is None:
        raise StrategyUnsupported(
            "the model has hooks, training modules or weights made in inference mode, so it cannot be told when its "
            "answers change"
        )
    second = tensors_in(run_example(model, situation))
    if not _same(random, _random_state(situation.device)):
        raise StrategyUnsupported("the call draws random numbers, so an answer of before is not the answer of now")
    if not _same(first, second):
        raise StrategyUnsupported("two calls with the same input give different bits, so no answer can be remembered")
    if not _same(asked, tensors_in(situation.example_inputs)):
        raise StrategyUnsupported("the call writes into its inputs, which a remembered answer would leave out")
    if standing != read_standing(model):
        raise StrategyUnsupported("the call changes the model itself, so the same input need not have the same answer")


def _remembering_class(plain: type[nn.Module]) -> type[nn.Module]:
    """A subclass whose call looks among the remembered answers first."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        question = None if torch.is_grad_enabled() else read_question(args, kwargs)
        standing = None if question is None else read_standing(self)
        if question is None or standing is None:
            return plain.__call__(self, *args, **kwargs)
        return _answer(self, plain, question, standing, args, kwargs)

    return type(f"Remembering{plain.__name__}", (plain,), {"__call__": call, "__module__": plain.__module__})


def _answer(
    model: Any,
    plain: type[nn.Module],
    question: Question,
    standing: tuple[Any, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    cache, key = model.answer_cache, question.key()
    known, answer = cache.look_up(key, question, standing)
    if known:
        return answer
    asked = question.copy()  # before the call, which may write into what it gets
    devices = {t.device for t in question.tensors}
    random = [state for device in devices for state in _random_state(device)]
    answer = plain.__call__(model, *args, **kwargs)
    moved = [state for device in devices for state in _random_state(device)]
    if _same(random, moved) and asked.is_same(question) and standing == read_standing(model):
        cache.keep(key, asked, standing, answer)
    return answer


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


ACTIVATION_CACHE = Method(
    Setting(
        name="activation_cache",
        sentence="Answers to the last eight inputs are remembered; the very same input is not computed again.",
        stage=96,
        exact=True,
        expected_cost_s=0.5,
        references=("https://www.nature.com/articles/218019a0",),
        on_request=(
            "it only helps when the very same input comes again, which a measurement with fresh inputs never does"
        ),
    ),
    apply=use_activation_cache,
    unsupported=refuse_activation_cache,
)
