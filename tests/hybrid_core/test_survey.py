"""One model answers all questions; a question that raises is left open and disturbs no other."""

import torch
from torch import nn

from hybrid_core.evaluation import case_from_module
from hybrid_core.records import Step
from hybrid_core.strategies import registry
from hybrid_core.strategies.base import Applied, Family, Method, Setting
from hybrid_core.survey import survey


def family(asked):
    def method(name, unsupported):
        return Method(Setting(name, f"{name}.", 10, True, 1.0), lambda m, s: Applied(m, (name,)), unsupported)

    def note(model, situation):
        asked.append((model, situation.scratch, torch.is_grad_enabled()))
        return "there is no norm" if not isinstance(model, nn.LayerNorm) else None

    def fail(model, situation):
        raise RuntimeError("a method that breaks")

    methods = (method("one", note), method("broken", fail), method("two", lambda m, s: None), method("three", note))
    return Family("quantization", "Quantization", "", {}, methods)


def test_every_answer_is_told_and_a_question_that_raises_is_left_open(monkeypatch, tmp_path):
    asked, told = [], {}
    monkeypatch.setattr(registry, "STRATEGIES", (family(asked),))
    case = case_from_module(nn.Linear(4, 4).eval(), (torch.zeros(2, 4),))
    steps = [Step("quantization", name) for name in ("one", "broken", "two", "three")]
    survey(case, steps, lambda step, reason, seconds: told.update({step.setting: reason}), tmp_path)
    assert told == {"one": "there is no norm", "two": None, "three": "there is no norm"}
    (first, scratch, grad), (last, _, _) = asked
    assert first is last and scratch == tmp_path and grad is False
