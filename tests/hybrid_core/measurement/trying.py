"""A tiny model, and the real `evaluate` on any candidate made from it: what cheats and honest candidates share."""

import torch
from torch import nn

from hybrid_core.evaluation import Toolbox, evaluate
from hybrid_core.measurement.case import Case
from hybrid_core.records import MeasureLimits, MeasureRequest, Purpose, Recipe, Subject, Trial, Workload
from hybrid_core.strategies.base import Applied

BATCH, WIDTH = 8, 16
# No verdict here may hang on a time: the interval may be as wide as it likes.
QUICK = MeasureLimits(target_half_width=1000.0, min_pairs=4, max_pairs=4, max_timed_s=0.1, quality_samples=8)
SUBJECT = Subject("fake", "tiny", Workload("forward", "forward", BATCH))
RECIPE = Recipe.from_dict({"quantization": "fake"})


class Honest(nn.Module):
    """Sixteen numbers in, sixteen out; what the cheats pretend to compute."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, WIDTH))

    def forward(self, x):
        return self.layers(x)


class Wrapped(nn.Module):
    """A candidate around the honest model; counts its calls, from 1."""

    def __init__(self, honest):
        super().__init__()
        self.honest, self.calls = honest, 0
        self.eval()

    def forward(self, *inputs):
        self.calls += 1
        return self.answer(*inputs)


def rows(generator):
    return (torch.randn(BATCH, WIDTH, generator=generator),)


def case_of(build=Honest, batch=BATCH, make_inputs=None) -> Case:
    return Case(
        build=lambda: build().eval(),
        make_inputs=make_inputs or (lambda generator: (torch.randn(batch, WIDTH, generator=generator),)),
        call=lambda model, inputs: model(*inputs),
        task=None,
        workload=SUBJECT.workload,
        device=torch.device("cpu"),
        threads=1,
        seed=3,
    )


def request_for(recipe=RECIPE, limits=QUICK) -> MeasureRequest:
    return MeasureRequest("run:search:" + recipe.key, "run", SUBJECT, recipe, Purpose.SEARCH, limits)


def try_candidate(change, *, exact=True, case=None, recipe=RECIPE, limits=QUICK, phases=None) -> Trial:
    """Evaluate a recipe whose whole effect is `change(model)`; a returned module replaces the model."""

    def apply(model, steps, situation):
        changed = change(model)
        return Applied(model if changed is None else changed, ("changed by the test",))

    toolbox = Toolbox(apply, lambda step: exact, lambda step: step.setting.startswith("compile"))
    enter = (lambda name: None) if phases is None else phases.append
    return evaluate(case or case_of(), request_for(recipe, limits), on_phase=enter, toolbox=toolbox)
