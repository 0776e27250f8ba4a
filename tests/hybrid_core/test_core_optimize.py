"""The documented entry point: each thing the original faked is a test here that would have caught it."""

from __future__ import annotations

import copy
import itertools
import json
import math
from dataclasses import replace
from statistics import quantiles

import pytest
import torch
from torch import nn

from hybrid_core import HybridOptimizationConfig, create_hybrid_optimization_core
from hybrid_core.candidates import HybridOptimizationStrategy
from hybrid_core.core import HybridOptimizationCore
from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.measured_module import MeasuredModule, strategy_name
from hybrid_core.records import (
    STRATEGY_NAMES,
    Estimate,
    MeasureLimits,
    Measurement,
    Outcome,
    Purpose,
    Quality,
    Recipe,
    Trial,
)

RESULT_KEYS = {
    "selected_strategy",
    "fitness_score",
    "num_candidates",
    "all_strategies",
    "performance_metrics",
    "recipe",
    "intervals",
    "verdicts",
    "trials",
    "pareto_front",
    "stop_reason",
    "iterations",
}
INT8, BF16, SLICES = "quantization=int8_dynamic", "quantization=bfloat16", "memory_pooling=micro_batch"
# speed, memory, accuracy; the pair is neither the product nor the sum of its halves.
TABLE = {
    "baseline": (1.0, 1.0, 1.0),
    INT8: (1.5, 2.0, 0.99),
    BF16: (1.2, 1.9, 1.0),
    SLICES: (1.1, 1.2, 1.0),
    f"{SLICES}+{BF16}": (1.6, 2.9, 1.0),
}


def measurement_of(speed: float, memory: float, accuracy: float) -> Measurement:
    def near(value: float) -> Estimate:
        return Estimate(value, value * 0.999, value * 1.001)

    one = Estimate.exact(1.0)
    return Measurement(
        speed_improvement=near(speed),
        memory_efficiency=near(memory),
        accuracy_preservation=near(accuracy),
        latency_ms=near(1 / speed),
        baseline_latency_ms=one,
        peak_bytes=int(1000 / memory),
        baseline_peak_bytes=1000,
        weight_bytes=1,
        baseline_weight_bytes=1,
        resident_bytes=1,
        first_call_s=0.1,
        baseline_first_call_s=0.1,
        break_even_calls=None,
        quality=Quality("agreement", 4, one, one),
        max_abs_error=0.0,
        stop_reason="fake",
        pairs_ms=((1.0, 1 / speed),),
        changes=("changed by the fake",),
        warnings=(),
        environment={},
    )


@pytest.fixture
def measured_by_table(monkeypatch):
    """Answer measurements from a table; what is not in it is unsupported. Returns the requests made."""
    requests = []
    table = dict(TABLE)

    def evaluate(case, request):
        requests.append(request)
        found = table.get(request.recipe.key)
        trial = Trial(request.trial_id, request.run_id, request.recipe, request.purpose, Outcome.OK, seconds=0.01)
        if found is None:
            return replace(trial, outcome=Outcome.UNSUPPORTED, reason="not in the table", stage="transform")
        return replace(trial, measurement=measurement_of(*found))

    monkeypatch.setattr("hybrid_core.measured_module.evaluate", evaluate)
    # What comes with the project was measured and contradicts the table.
    monkeypatch.setattr("hybrid_core.core.shipped_history", lambda capability, device: ())
    evaluate.requests, evaluate.table = requests, table
    return evaluate


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 256), nn.LayerNorm(256), nn.Linear(256, 64))


def core(**config) -> HybridOptimizationCore:
    quick = {"rl_max_episodes": 4, "rl_hidden_dim": 8, "optimization_strategies": ["quantization", "memory_pooling"]}
    return create_hybrid_optimization_core(quick | config)


def test_the_result_has_the_documented_keys_and_is_json(measured_by_table, model):
    _, result = core().hybrid_optimize_module(model)
    assert set(result) >= RESULT_KEYS
    assert set(result["performance_metrics"]) == {"speed_improvement", "memory_efficiency", "accuracy_preservation"}
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert type(result["fitness_score"]) is float


def test_the_reported_fitness_is_the_selected_candidates_own(measured_by_table, model):
    """The original reported the best candidate's fitness beside another one's name."""
    hybrid = core()
    _, result = hybrid.hybrid_optimize_module(model)
    metrics = result["performance_metrics"]
    assert result["fitness_score"] == pytest.approx(hybrid.candidate_selector.evaluate_candidate_fitness(metrics))
    key = Recipe.from_dict(result["recipe"]).key
    assert tuple(metrics.values()) == TABLE[key]
    assert result["selected_strategy"] == strategy_name(Recipe.from_dict(result["recipe"]))
    assert result["intervals"]["speed_improvement"]["low"] < metrics["speed_improvement"]


def test_the_best_measured_recipe_wins_and_is_really_applied(measured_by_table, model):
    optimized, result = core().hybrid_optimize_module(model)
    assert result["recipe"] == {"quantization": "bfloat16", "memory_pooling": "micro_batch"}
    assert result["selected_strategy"] == "ensemble_quantization_memory_pooling"
    assert {p.dtype for p in optimized.parameters()} == {torch.bfloat16}
    inputs = torch.randn(32, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = model(inputs), optimized(inputs)
    difference = (expected - found).abs().max()
    assert 0 < difference < 0.1 * expected.abs().max()


def test_an_ensembles_figures_are_measured_and_not_multiplied(measured_by_table, model):
    candidates = core(num_candidates=3).generate_optimization_candidates(model)
    singles = [c for c in candidates if not c["strategy"].startswith("ensemble_")]
    pair = next(c for c in candidates if c["strategy"] == "ensemble_quantization_memory_pooling")
    product = math.prod(c["memory_efficiency"] for c in singles)
    assert pair["memory_efficiency"] == TABLE[Recipe.from_dict(pair["recipe"]).key][1] != pytest.approx(product)


@pytest.mark.parametrize("selection", [True, False])
def test_the_callers_module_is_never_changed(measured_by_table, model, selection):
    """With candidate selection off the original changed the module it was given and returned another shape."""
    before = copy.deepcopy(model)
    model.train()
    optimized, result = core(enable_candidate_selection=selection).hybrid_optimize_module(model)
    assert set(result) >= RESULT_KEYS and result["selected_strategy"] != "none"
    assert optimized is not model and model.training
    assert all(type(a) is type(b) for a, b in zip(model.modules(), before.modules(), strict=True))
    for name, tensor in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert not list(model[0]._forward_hooks) and not list(model[0]._forward_pre_hooks)


def test_nothing_that_works_is_reported_as_none_with_the_untouched_module(measured_by_table, model):
    measured_by_table.table.clear()
    measured_by_table.table["baseline"] = (1.0, 1.0, 1.0)
    optimized, result = core().hybrid_optimize_module(model)
    assert set(result) >= RESULT_KEYS
    assert (result["selected_strategy"], result["num_candidates"], result["all_strategies"]) == ("none", 0, [])
    assert result["performance_metrics"] == dict.fromkeys(result["performance_metrics"], 1.0)
    assert result["fitness_score"] == pytest.approx(1.0) and result["recipe"] == {}
    assert optimized is not model
    inputs = torch.ones(2, 128)
    assert torch.equal(optimized(inputs), model(inputs))


def test_a_module_that_cannot_be_measured_is_reported_as_none_with_the_reason(measured_by_table, model):
    measured_by_table.table.clear()
    _, result = core().hybrid_optimize_module(model)
    assert result["selected_strategy"] == "none"
    assert "not in the table" in result["stop_reason"] + result["sentence"]


def test_a_faster_but_wrong_candidate_does_not_win(measured_by_table, model):
    measured_by_table.table |= {BF16: (9.0, 9.0, 0.5), f"{SLICES}+{BF16}": (9.0, 9.0, 0.5)}
    _, result = core().hybrid_optimize_module(model)
    assert result["recipe"] == {"quantization": "int8_dynamic"}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_num_candidates_is_how_many_candidates_come_back(measured_by_table, model, count):
    """The original made ten whatever it was told."""
    hybrid = core(num_candidates=count)
    candidates = hybrid.generate_optimization_candidates(model)
    assert len(candidates) == count
    assert any("enough" in reason for reason in hybrid.missing_candidates.values())


def test_candidates_have_the_documented_keys_and_distinct_recipes(measured_by_table, model):
    candidates = core(num_candidates=20).generate_optimization_candidates(model)
    keys = {
        "module",
        "strategy",
        "speed_improvement",
        "memory_efficiency",
        "accuracy_preservation",
        "original_strategy",
    }
    for candidate in candidates:
        assert set(candidate) >= keys | {"recipe", "trial"}
        assert isinstance(candidate["module"], nn.Module) and candidate["module"] is not model
        assert candidate["trial"].recipe.to_dict() == candidate["recipe"]
    recipes = [Recipe.from_dict(c["recipe"]).key for c in candidates]
    assert len(set(recipes)) == len(recipes) == len(TABLE) - 1


def test_failed_recipes_are_left_out_with_their_reason(measured_by_table, model):
    del measured_by_table.table[BF16]
    hybrid = core(num_candidates=20)
    candidates = hybrid.generate_optimization_candidates(model)
    assert {"quantization": "bfloat16"} not in [c["recipe"] for c in candidates]
    assert hybrid.missing_candidates[BF16] == "unsupported: not in the table"


def test_without_ensembles_no_recipe_has_two_steps(measured_by_table, model):
    hybrid = core(enable_ensemble_optimization=False, num_candidates=20)
    _, result = hybrid.hybrid_optimize_module(model)
    hybrid.generate_optimization_candidates(model)
    assert {len(request.recipe.steps) for request in measured_by_table.requests} == {0, 1}
    assert not any(name.startswith("ensemble_") for name in result["all_strategies"])


def test_only_the_configured_strategies_are_measured(measured_by_table, model):
    core(optimization_strategies=["quantization"]).hybrid_optimize_module(model)
    used = {name for request in measured_by_table.requests for name in request.recipe.strategies}
    assert used == {"quantization"}


def test_objective_weights_decide_who_wins(measured_by_table, model):
    """The original's factory dropped the weights."""
    measured_by_table.table[SLICES] = (2.5, 1.0, 1.0)
    winners = {}
    for name in ("speed", "memory"):
        hybrid = core(objective_weights={name: 1.0}, min_speed_improvement=0.0)
        winners[name] = hybrid.hybrid_optimize_module(model)[1]["recipe"]
    assert winners["speed"] == {"memory_pooling": "micro_batch"}
    assert winners["memory"] == {"quantization": "bfloat16", "memory_pooling": "micro_batch"}


def test_a_performance_threshold_above_everything_leaves_the_untouched_module(measured_by_table, model):
    _, result = core(performance_threshold=5.0).hybrid_optimize_module(model)
    assert result["selected_strategy"] == "none"


@pytest.mark.parametrize("limit", [1, 2])
def test_max_iterations_is_kept(measured_by_table, model, limit):
    _, result = core(max_iterations=limit).hybrid_optimize_module(model)
    assert result["iterations"] <= limit


def test_what_does_not_fit_into_the_budget_is_skipped_and_said(measured_by_table, model):
    measured_by_table.table["kernel_fusion=fold"] = (1.0, 1.0, 1.0)
    _, result = core(optimization_strategies=["kernel_fusion"]).hybrid_optimize_module(model, budget_s=10)
    skipped = {entry["key"]: entry["reason"] for entry in result["skipped"]}
    assert "the budget of 10 s has no room" in skipped["kernel_fusion=compile"]
    assert "kernel_fusion=compile" not in [trial["key"] for trial in result["trials"]]


@pytest.mark.parametrize("budget", [0, -5, math.nan, 9, "60"])
def test_an_impossible_budget_is_refused_before_anything_is_measured(measured_by_table, model, budget):
    with pytest.raises(InvalidInput, match="budget_s"):
        core().hybrid_optimize_module(model, budget_s=budget)
    with pytest.raises(InvalidInput, match="budget_s"):
        core().generate_optimization_candidates(model, budget_s=budget)
    assert not measured_by_table.requests


def test_every_failed_trial_is_listed_with_its_reason(measured_by_table, model):
    _, result = core().hybrid_optimize_module(model)
    failed = {trial["key"]: trial for trial in result["trials"] if trial["outcome"] == "unsupported"}
    asked = {request.recipe.key for request in measured_by_table.requests}
    assert set(failed) == asked - set(measured_by_table.table) != set()
    assert {trial["reason"] for trial in failed.values()} == {"not in the table"}


def test_the_report_counts_what_happened_and_is_json(measured_by_table, model):
    hybrid = core()
    assert hybrid.get_optimization_report() == {"message": "No optimizations performed yet"}
    results = [hybrid.hybrid_optimize_module(model)[1] for _ in range(2)]
    report = hybrid.get_optimization_report()
    json.dumps(report, allow_nan=False)
    assert report["total_optimizations"] == 2
    assert sum(report["strategy_usage"].values()) == 2
    speeds = [r["performance_metrics"]["speed_improvement"] for r in results]
    assert report["average_metrics"]["avg_speed_improvement"] == pytest.approx(sum(speeds) / 2)
    assert report["best_optimization"]["fitness_score"] == max(r["fitness_score"] for r in results)
    for name in ("rl_optimization", "dapo", "vapo", "orz", "ensemble_optimization", "hybrid_optimization"):
        assert report[f"{name}_enabled"] is True


def test_the_report_says_what_the_policy_learned_and_only_from_trained_policies(measured_by_table, model):
    hybrid = core(enable_rl_optimization=False)
    hybrid.hybrid_optimize_module(model)
    assert "rl_performance" not in hybrid.get_optimization_report()
    hybrid._rl_details = [
        {"trained": True, "episodes": 32, "policy_loss": [1.0, 3.0], "value_loss": [], "returns": [0.5]},
        {"trained": False, "reason": "too few"},
    ]
    assert hybrid.get_optimization_report()["rl_performance"] == {
        "total_rl_episodes": 32,
        "avg_policy_loss": 2.0,
        "avg_rl_reward": 0.5,
    }


def test_with_rl_on_a_search_trains_a_policy_on_its_own_measurements(measured_by_table, model):
    singles = (BF16, SLICES, "kernel_fusion=fold", "attention_fusion=sdpa")
    for size in (1, 2, 3, 4):
        for parts in itertools.combinations(sorted(singles), size):
            measured_by_table.table.setdefault("+".join(parts), (1.0 + 0.01 * size, 1.0, 1.0))
    # Only what the table answers: a policy learns from what worked, and four recipes have to.
    settings = {name: [setting] for name, setting in (single.split("=") for single in singles)}
    hybrid = core(
        num_candidates=1,
        convergence_threshold=0.0,
        optimization_strategies=list(STRATEGY_NAMES),
        strategy_settings=settings,
    )
    _, result = hybrid.hybrid_optimize_module(model)
    assert result["recipe"] == {"quantization": "bfloat16", "memory_pooling": "micro_batch"}
    assert hybrid.get_optimization_report()["rl_performance"]["total_rl_episodes"] >= 4 * 8


def test_a_second_search_starts_from_what_the_first_found_unless_switched_off(measured_by_table, model, monkeypatch):
    from hybrid_core import core as core_module

    seen = []
    real = core_module.run_search

    def spy(*arguments, history, **options):
        seen.append(sum(not row.is_shipped for row in history))
        return real(*arguments, history=history, **options)

    monkeypatch.setattr(core_module, "run_search", spy)
    hybrid = core()
    hybrid.hybrid_optimize_module(model)
    hybrid.hybrid_optimize_module(model)
    assert seen[0] == 0 < seen[1]


def test_one_strategy_as_a_function_gives_its_best_setting(measured_by_table, model):
    strategy = HybridOptimizationStrategy(HybridOptimizationConfig())
    candidate = strategy.quantization_strategy(model)
    assert candidate["recipe"] == {"quantization": "int8_dynamic"}
    assert strategy.strategy_performance["quantization"] == [pytest.approx(0.4 * 1.5 + 0.3 * 2.0 + 0.3 * 0.99)]
    again = strategy.get_strategy_function("memory_pooling")(model)
    assert again["strategy"] == "memory_pooling"


def test_a_strategy_without_a_working_setting_is_unsupported_with_all_reasons(measured_by_table, model):
    with pytest.raises(StrategyUnsupported, match="attention_fusion has no setting .*not in the table"):
        HybridOptimizationStrategy().attention_fusion_strategy(model)


@pytest.mark.parametrize("name", ["memory_optimization", "", "kernel_fusion_strategy", "__init__", None])
def test_an_unknown_strategy_is_refused_and_not_taken_for_kernel_fusion(name):
    with pytest.raises(InvalidInput, match="is unknown; choose one of kernel_fusion, quantization"):
        HybridOptimizationStrategy().get_strategy_function(name)


def test_unknown_configuration_keys_are_refused_by_the_factory():
    with pytest.raises(InvalidInput, match="'num_candidate' is unknown"):
        create_hybrid_optimization_core({"num_candidate": 3})


# -- really measured ---------------------------------------------------------------------------------------------------


def test_a_real_measurement_changes_the_module_and_its_figures_come_from_its_own_samples(model):
    """The original's strategies returned the module unchanged and its figures were literals."""
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    measured = MeasuredModule(model, budget_s=10)
    trial = measured.measure(Recipe.from_key(BF16), Purpose.SEARCH, MeasureLimits(max_pairs=24, max_timed_s=0.3))
    assert trial.is_ok, trial.reason
    figures = trial.measurement
    tenths = quantiles((a / b for a, b in figures.pairs_ms), n=10)
    assert tenths[0] < figures.speed_improvement.value < tenths[-1], "a busy machine gives pairs of two speeds"
    assert figures.weight_bytes == pytest.approx(figures.baseline_weight_bytes / 2, rel=0.05)
    assert 0 < figures.max_abs_error
    assert figures.accuracy_preservation.value <= 1.001
    candidate = measured.candidate(trial)
    assert {p.dtype for p in candidate["module"].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(random_state, torch.get_rng_state()) and threads == torch.get_num_threads()


def test_a_real_baseline_against_itself_is_no_gain(model):
    trial = MeasuredModule(model, budget_s=10).measure(Recipe(), Purpose.BASELINE, MeasureLimits(max_timed_s=0.3))
    assert trial.is_ok
    assert trial.measurement.memory_efficiency.value == pytest.approx(1.0)
    assert trial.measurement.max_abs_error == 0.0


def test_a_real_search_from_start_to_end(model):
    hybrid = core(optimization_strategies=["quantization"], enable_ensemble_optimization=False, max_iterations=1)
    optimized, result = hybrid.hybrid_optimize_module(model, budget_s=10)
    assert set(result) >= RESULT_KEYS
    assert result["trials"][0]["purpose"] == "baseline" and result["trials"][0]["outcome"] == "ok"
    assert optimized(torch.zeros(3, 128)).shape == (3, 64)
    json.dumps(result, allow_nan=False)
