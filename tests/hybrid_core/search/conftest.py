"""A planted landscape: known effects per setting, seeded noise, and a clock that only trials move."""

import itertools
import math
import random
from dataclasses import dataclass, field, replace

import pytest

from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.records import (
    Estimate,
    MeasureLimits,
    Measurement,
    Outcome,
    Purpose,
    Quality,
    Recipe,
    Trial,
    to_json,
    trial_name,
)
from hybrid_core.search.loop import run_search
from hybrid_core.search.space import Space

# strategy -> setting -> (speed, memory, accuracy, seconds besides the overhead)
EFFECTS = {
    "attention_fusion": {"sdpa": (1.20, 1.30, 1.0, 1.0)},
    "kernel_fusion": {"fold": (1.03, 1.00, 1.0, 0.5), "compile": (1.25, 1.00, 1.0, 30.0)},
    "memory_pooling": {"in_place": (1.01, 1.20, 1.0, 0.5), "static_cache": (1.15, 1.05, 1.0, 1.0)},
    "quantization": {"int8_dynamic": (0.80, 1.60, 0.995, 1.0), "bfloat16": (1.60, 1.80, 0.90, 1.0)},
}


def plain_options(**changes):
    """The staged search with a classical method, so that no policy has to be trained in a test about something else."""
    return HybridOptimizationConfig(**{"enable_rl_optimization": False, "search_method": "selection", **changes})


def make_space(effects=None, **changes):
    effects = EFFECTS if effects is None else effects
    recipes = [
        Recipe.from_dict({name: setting for name, setting in zip(sorted(effects), row, strict=True) if setting})
        for row in itertools.product(*(["", *effects[name]] for name in sorted(effects)))
    ]
    recipes.sort(key=lambda recipe: (len(recipe.steps), recipe.key))
    return Space(
        **{
            "settings": {name: tuple(settings) for name, settings in effects.items()},
            "recipes": tuple(recipes),
            "step_cost_s": {f"{n}={s}": e[3] for n, settings in effects.items() for s, e in settings.items()},
            **changes,
        }
    )


def make_measurement(speed, memory=1.0, accuracy=1.0, half=0.01, accuracy_half=0.002):
    """A measurement whose three ratios are given; everything else is consistent with them."""

    def around(value, width):
        return Estimate(value, value - width, value + width)

    return Measurement(
        speed_improvement=around(speed, half * abs(speed)),
        memory_efficiency=Estimate.exact(memory),
        accuracy_preservation=around(accuracy, accuracy_half),
        latency_ms=around(10.0 / speed if speed else math.nan, 0.1),
        baseline_latency_ms=around(10.0, 0.1),
        peak_bytes=1000,
        baseline_peak_bytes=1000,
        weight_bytes=500,
        baseline_weight_bytes=500,
        resident_bytes=5000,
        first_call_s=0.1,
        baseline_first_call_s=0.1,
        break_even_calls=None,
        quality=Quality("agreement", 64, around(1.0, 0.0), around(1.0, 0.0)),
        max_abs_error=0.0,
        stop_reason="narrow enough",
        pairs_ms=((10.0, 10.0 / speed if speed else math.nan),),
        changes=(),
        warnings=(),
        environment={},
    )


FAST = Recipe.from_dict({"a": "fast"})


def rounds_of(speeds, recipe=FAST, purpose=Purpose.FINAL, **changes):
    """One trial of each speed, as the processes of one recipe give them."""
    return [
        Trial(
            f"run:{purpose}.{n}:{recipe.key}", "run", recipe, purpose, Outcome.OK, seconds=4.0 + n,
            measurement=replace(make_measurement(speed), **changes), phases_s={"timing": 2.0, "build": 1.0},
        )
        for n, speed in enumerate(speeds, 1)
    ]  # fmt: skip


@dataclass
class Landscape:
    """A `measure` with known truth. Pair interactions and failures can be planted."""

    effects: dict = field(default_factory=lambda: EFFECTS)
    noise: float = 0.004
    overhead_s: float = 7.0
    seed: int = 0
    outcomes: dict = field(default_factory=dict)  # frozenset of "strategy=setting" -> Outcome
    bonus: dict = field(default_factory=dict)  # recipe key -> factor on speed
    answer: object = None  # (recipe, purpose) -> Trial or None
    now: float = 100.0
    number: int = 0
    calls: list = field(default_factory=list)
    limits: list = field(default_factory=list)
    rounds: list = field(default_factory=list)  # the numbers of the rounds, in the order measured
    round_noise: float = 0.0  # how far the processes of one recipe differ

    def clock(self):
        return self.now

    def truth(self, recipe):
        speed = memory = accuracy = 1.0
        for step in recipe.steps:
            s, m, a, _ = self.effects[step.strategy][step.setting]
            speed, memory, accuracy = speed * s, memory * m, accuracy * a
        return speed * self.bonus.get(recipe.key, 1.0), memory, accuracy

    def seconds(self, recipe, purpose):
        extra = sum(self.effects[step.strategy][step.setting][3] for step in recipe.steps)
        return self.overhead_s + extra + (2.0 if purpose is Purpose.FINAL else 0.0)

    def measure(self, recipe: Recipe, purpose: Purpose, limits: MeasureLimits, round_number: int = 0) -> Trial:
        if round_number < 2:
            self.calls.append((purpose.value, recipe.key))
        self.rounds.append((purpose.value, recipe.key, round_number))
        self.limits.append((purpose, limits))
        self.number = round_number
        own = self.answer(recipe, purpose) if self.answer else None
        trial = replace(own or self._trial(recipe, purpose), trial_id=trial_name("run", purpose, recipe, round_number))
        self.now += trial.seconds
        return trial

    def _trial(self, recipe, purpose):
        shared = dict(trial_id=f"run:{purpose}:{recipe.key}", run_id="run", recipe=recipe, purpose=purpose)
        names = {f"{step.strategy}={step.setting}" for step in recipe.steps}
        for steps, outcome in self.outcomes.items():
            if steps <= names:
                return Trial(**shared, outcome=outcome, reason=f"planted {outcome}", seconds=3.0)
        rng = random.Random(f"{self.seed}:{purpose}:{recipe.key}")
        speed, memory, accuracy = self.truth(recipe)
        own = random.Random(f"{self.seed}:{purpose}:{recipe.key}:{self.number}").gauss(0, self.round_noise)
        measurement = make_measurement(speed * math.exp(rng.gauss(0, self.noise) + own), memory, accuracy)
        seconds = self.seconds(recipe, purpose)
        return Trial(**shared, outcome=Outcome.OK, measurement=measurement, seconds=seconds, phases_s={"timing": 2.0})


@dataclass
class Told:
    """Everything a search emitted."""

    events: list = field(default_factory=list)

    def __call__(self, kind, data):
        self.events.append((kind, data))

    def of(self, kind):
        return [data for k, data in self.events if k == kind]


@pytest.fixture
def search():
    """Run a search on a landscape: returns (result, landscape, told)."""

    def go(landscape=None, space=None, budget_s=600.0, seed=0, options=None, **kwargs):
        landscape = landscape or Landscape()
        told = Told()
        config = RunConfig(
            model="planted", budget_s=budget_s, seed=seed, options=options or plain_options(), workload="forward"
        )
        result = run_search(
            config,
            space or make_space(landscape.effects),
            landscape.measure,
            told,
            clock=landscape.clock,
            **kwargs,
        )
        return result, landscape, told

    return go


@pytest.fixture
def planted():
    """The names the tests need, since test folders are not packages."""

    class Names:
        pass

    names = Names()
    names.Landscape, names.make_space, names.make_measurement = Landscape, make_space, make_measurement
    names.rounds_of = rounds_of
    names.plain_options, names.EFFECTS, names.to_json = plain_options, EFFECTS, to_json
    return names
