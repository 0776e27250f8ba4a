"""Scoring: one number to rank by, bounds that no number may buy off, and the Pareto front beside both.

A weighted sum alone would crown a model that is fast and wrong. So accuracy is first a constraint, judged on the
pessimistic end of its interval, and only then a term of the sum (epsilon-constraint before scalarisation; Haimes et al.
1971, Miettinen 1999). Ratios are baseline / candidate: 1.0 is no change, so the untouched model scores exactly the
sum of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.records import Estimate, Measurement, Trial, Verdict

# Below one percent a difference is called a tie even on a machine that looks quieter than that: fewer than about
# sixty paired repeats do not resolve 1 % at 2 % noise.
SMALLEST_NOISE_FLOOR = 0.01


def active_weights(options: HybridOptimizationConfig) -> dict[str, float]:
    """The weight of each objective that really counts.

    With `enable_multi_objective_optimization=False` speed carries the whole sum of the weights, so that the
    baseline's fitness stays the same number and accuracy stays a constraint.

    >>> active_weights(HybridOptimizationConfig(enable_multi_objective_optimization=False))
    {'speed': 1.0, 'memory': 0.0, 'accuracy': 0.0}
    """
    if options.enable_multi_objective_optimization:
        return dict(options.objective_weights)
    return {"speed": baseline_fitness(options), "memory": 0.0, "accuracy": 0.0}


def baseline_fitness(options: HybridOptimizationConfig) -> float:
    """The untouched model's fitness: the sum of the weights, because its three ratios are 1."""
    return math.fsum(options.objective_weights.values())


def objectives_of(measurement: Measurement) -> dict[str, Estimate]:
    """The three ratios under the names that `objective_weights` uses."""
    return {
        "speed": measurement.speed_improvement,
        "memory": measurement.memory_efficiency,
        "accuracy": measurement.accuracy_preservation,
    }


def fitness_of(measurement: Measurement, options: HybridOptimizationConfig) -> Estimate:
    """The weighted sum of the three ratios with an interval that is never too narrow.

    The ends are the weighted sums of the ends: half-widths add linearly. The errors of the three ratios are not
    independent (a disturbed process hurts both time and memory), and for jointly normal errors of *any* correlation the
    standard deviation of a sum is at most the sum of the standard deviations, so this interval covers at least 95 %.
    Adding in quadrature would be narrower and would need an independence nobody has shown.

    An objective of weight zero is left out, so that an unknown (NaN) value of it does not spoil the sum.
    """
    ratios = objectives_of(measurement)
    terms = [(weight, ratios[name]) for name, weight in active_weights(options).items() if weight > 0]
    return Estimate(
        value=math.fsum(weight * ratio.value for weight, ratio in terms),
        low=math.fsum(weight * ratio.low for weight, ratio in terms),
        high=math.fsum(weight * ratio.high for weight, ratio in terms),
    )


def judge(ratio: Estimate, noise_floor: float) -> Verdict:
    """Better or worse only if the interval excludes 1 and the difference exceeds the A/A noise floor.

    >>> judge(Estimate(1.05, 1.02, 1.08), 0.02)
    <Verdict.BETTER: 'better'>
    >>> judge(Estimate(1.05, 1.02, 1.08), 0.06), judge(Estimate(1.05, 0.99, 1.11), 0.02)
    (<Verdict.TIE: 'tie'>, <Verdict.TIE: 'tie'>)
    """
    if ratio.low > 1.0 and ratio.value - 1.0 > noise_floor:
        return Verdict.BETTER
    if ratio.high < 1.0 and 1.0 - ratio.value > noise_floor:
        return Verdict.WORSE
    return Verdict.TIE


def noise_floor_of(ratio: Estimate) -> float:
    """How large a difference measuring nothing at all produced: the far end of an A/A ratio's interval from 1.

    >>> noise_floor_of(Estimate(1.01, 0.97, 1.02)) == 1 - 0.97
    True
    """
    ends = (abs(ratio.low - 1.0), abs(ratio.high - 1.0), abs(ratio.value - 1.0))
    return max(SMALLEST_NOISE_FLOOR, *(end for end in ends if math.isfinite(end)), 0.0)


def verdicts_of(measurement: Measurement, noise_floors: dict[str, float]) -> dict[str, Verdict]:
    """A verdict per objective; a floor that is missing is the smallest one."""
    return {
        name: judge(ratio, noise_floors.get(name, SMALLEST_NOISE_FLOOR))
        for name, ratio in objectives_of(measurement).items()
    }


def unfit_parent_reason(trial: Trial, options: HybridOptimizationConfig) -> str | None:
    """Why this trial may not pass on its steps, in one sentence with figures; None when it may.

    A failure, an accuracy below the bound, or a fitness wholly below `performance_threshold` x the baseline's.
    """
    measurement = trial.measurement
    if not trial.is_ok or measurement is None:
        return f"not measured: {trial.reason or trial.outcome}"
    fitness = fitness_of(measurement, options)
    accuracy = measurement.accuracy_preservation
    if not all(math.isfinite(x) for x in (fitness.value, fitness.low, fitness.high, accuracy.low)):
        return f"its fitness is not a number ({_not_finite(measurement)}), so it cannot be compared"
    bound = options.min_accuracy_preservation
    if accuracy.low < bound and not trial.recipe.is_baseline:
        return f"accuracy preservation {_interval(accuracy)} is below the bound {bound:g}"
    threshold = options.performance_threshold * baseline_fitness(options)
    if fitness.high < threshold and not trial.recipe.is_baseline:
        return (
            f"fitness {_interval(fitness)} is below {threshold:.3f}, which is performance_threshold "
            f"{options.performance_threshold:g} of the baseline's {baseline_fitness(options):.3f}"
        )
    return None


def infeasible_reason(trial: Trial, options: HybridOptimizationConfig, noise_floor: float) -> str | None:
    """Why this trial may not win, in one sentence with figures; None when it may.

    The accuracy bound is judged on the pessimistic end of its interval (a promise must hold), `min_speed_improvement`
    on the optimistic end (a candidate is called too slow only when it surely is). The baseline is always feasible.
    """
    reason = unfit_parent_reason(trial, options)
    if reason is not None or trial.measurement is None or trial.recipe.is_baseline:
        return reason
    speed, bound = trial.measurement.speed_improvement, options.min_speed_improvement
    if speed.high < bound:
        inside = bound - speed.value <= noise_floor
        floor = f"; the shortfall is within the A/A noise floor of {noise_floor:.3f}" if inside else ""
        return f"speed improvement {_interval(speed)} is below the bound {bound:g}{floor}"
    return None


def shortfall(accuracy: Estimate, speed: Estimate, options: HybridOptimizationConfig) -> float:
    """How far the bounds on a winner are missed, 0 when they are kept: the number behind `infeasible_reason`.

    Accuracy by its pessimistic end, speed by its optimistic one. Infinite when such an end is NaN: nothing is promised.

    >>> options = HybridOptimizationConfig()
    >>> round(shortfall(Estimate(0.99, 0.96, 1.0), Estimate(0.9, 0.85, 0.95), options), 3)
    0.07
    """
    ends = ((accuracy.low, options.min_accuracy_preservation), (speed.high, options.min_speed_improvement))
    if any(math.isnan(end) for end, _ in ends):
        return math.inf
    return math.fsum(max(0.0, bound - end) for end, bound in ends)


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """True when `a` is at least as good as `b` everywhere and better somewhere; larger is better."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def pareto_front(points: Sequence[tuple[float, float, float]]) -> list[int]:
    """Positions of the points that no other point dominates, in the order given; larger is better.

    Equal points do not dominate each other, so all of them stay. A point with a NaN is left out: it cannot be compared.

    >>> pareto_front([(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.5, 1.5, 0.9), (1.4, 1.5, 0.9)])
    [1, 2]
    """
    known = [i for i, point in enumerate(points) if not any(math.isnan(x) for x in point)]
    return [i for i in known if not any(dominates(points[j], points[i]) for j in known if j != i)]


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} (95 % interval {estimate.low:.3f} to {estimate.high:.3f})"


def _not_finite(measurement: Measurement) -> str:
    return ", ".join(
        f"{name} is {ratio.value}" + (f" [{ratio.low}, {ratio.high}]" if math.isfinite(ratio.value) else "")
        for name, ratio in objectives_of(measurement).items()
        if not all(math.isfinite(x) for x in (ratio.value, ratio.low, ratio.high))
    )
