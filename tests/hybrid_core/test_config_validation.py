"""Every configuration key is honoured or refused by name, with the value seen and what is allowed."""

from __future__ import annotations

import dataclasses
import math

import pytest

from hybrid_core.config import NEVER_HONOURED, HybridOptimizationConfig, RunConfig, choose_workload
from hybrid_core.errors import InvalidInput
from hybrid_core.records import SELECTION_METHODS, STRATEGY_NAMES, Workload, to_json

DOCUMENTED_BASIC = {
    "enable_candidate_selection": True,
    "enable_ensemble_optimization": True,
    "enable_rl_optimization": True,
    "enable_dapo": True,
    "enable_vapo": True,
    "enable_orz": True,
    "num_candidates": 5,
    "tournament_size": 3,
    "selection_strategy": "tournament",
    "optimization_strategies": ["kernel_fusion", "quantization", "memory_pooling", "attention_fusion"],
}
DOCUMENTED_ADVANCED = DOCUMENTED_BASIC | {
    "enable_tournament_selection": True,
    "enable_adaptive_hybrid": True,
    "enable_multi_objective_optimization": True,
    "num_candidates": 8,
    "tournament_size": 4,
    "objective_weights": {"speed": 0.4, "memory": 0.3, "accuracy": 0.3},
    "performance_threshold": 0.8,
    "convergence_threshold": 0.01,
    "max_iterations": 10,
    "rl_hidden_dim": 128,
    "rl_learning_rate": 3e-4,
    "rl_value_learning_rate": 1e-3,
    "rl_gamma": 0.99,
    "rl_lambda": 0.95,
    "rl_epsilon_low": 0.1,
    "rl_epsilon_high": 0.3,
    "rl_max_episodes": 100,
    "rl_max_steps_per_episode": 50,
}
BOOLEANS = [f.name for f in dataclasses.fields(HybridOptimizationConfig) if f.type == "bool"]
WHOLE = [f.name for f in dataclasses.fields(HybridOptimizationConfig) if f.type == "int"]
NUMBERS = [f.name for f in dataclasses.fields(HybridOptimizationConfig) if f.type in ("int", "float")]


@pytest.mark.parametrize("config", [DOCUMENTED_BASIC, DOCUMENTED_ADVANCED], ids=["basic", "advanced"])
def test_the_documented_configurations_are_accepted_and_every_value_arrives(config):
    options = HybridOptimizationConfig.from_dict(config)
    for key, value in config.items():
        got = getattr(options, key)
        assert (list(got) if isinstance(got, tuple) else got) == value


def test_nothing_given_is_the_documented_defaults():
    for empty in (None, {}):
        options = HybridOptimizationConfig.from_dict(empty)
        assert options == HybridOptimizationConfig()
        for key, value in DOCUMENTED_BASIC.items():
            got = getattr(options, key)
            assert (list(got) if isinstance(got, tuple) else got) == value


@pytest.mark.parametrize("key", NEVER_HONOURED)
def test_a_key_that_never_did_anything_is_refused_by_name(key):
    with pytest.raises(InvalidInput, match=f"'{key}'.*never did anything"):
        HybridOptimizationConfig.from_dict({key: 1})


def test_an_unknown_key_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(InvalidInput, match="'num_candidate' is unknown; choose one of .*num_candidates"):
        HybridOptimizationConfig.from_dict({"num_candidate": 5})


@pytest.mark.parametrize("name", BOOLEANS)
@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_a_switch_takes_only_true_and_false(name, value):
    with pytest.raises(InvalidInput, match=name):
        HybridOptimizationConfig.from_dict({name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, "3", None, True, [3]])
def test_a_number_field_refuses_what_is_no_allowed_number_by_name(name, value):
    with pytest.raises(InvalidInput, match=name):
        HybridOptimizationConfig.from_dict({name: value})


@pytest.mark.parametrize("name", WHOLE)
def test_a_count_refuses_fractions(name):
    with pytest.raises(InvalidInput, match=f"{name}=2.5 is not allowed; give a whole number"):
        HybridOptimizationConfig.from_dict({name: 2.5})


@pytest.mark.parametrize("name", NUMBERS)
def test_the_declared_ends_of_a_range_are_exact(name):
    low, high, low_allowed, high_allowed = HybridOptimizationConfig._ranges[name]
    kind = int if name in WHOLE else float
    for end, allowed in ((low, low_allowed), (high, high_allowed)):
        if allowed:
            assert getattr(HybridOptimizationConfig(**{name: kind(end)}), name) == end
        else:
            with pytest.raises(InvalidInput, match=name):
                HybridOptimizationConfig(**{name: kind(end)})
    for outside in (low - 1, high + 1):
        with pytest.raises(InvalidInput, match=name):
            HybridOptimizationConfig(**{name: kind(outside)})


def test_every_number_field_has_a_range():
    assert set(NUMBERS) == set(HybridOptimizationConfig._ranges)


def test_zero_candidates_are_refused_with_what_is_allowed():
    with pytest.raises(InvalidInput, match="num_candidates=0 is not allowed; give a whole number from 1 to 200"):
        HybridOptimizationConfig(num_candidates=0)


@pytest.mark.parametrize(
    "weights", [{"speed": 0.0, "memory": 0.0, "accuracy": 0.0}, {}, {"speed": 0}], ids=["zeros", "none", "one zero"]
)
def test_weights_that_are_all_zero_are_refused(weights):
    with pytest.raises(InvalidInput, match="all zero"):
        HybridOptimizationConfig(objective_weights=weights)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "0.4", None, True])
def test_an_impossible_weight_is_refused_by_name(value):
    with pytest.raises(InvalidInput, match=r"objective_weights\['memory'\]"):
        HybridOptimizationConfig(objective_weights={"speed": 1.0, "memory": value})


def test_an_unknown_objective_and_weights_that_are_no_mapping_are_refused():
    with pytest.raises(InvalidInput, match="'latency' is unknown; choose one of speed, memory, accuracy"):
        HybridOptimizationConfig(objective_weights={"latency": 1.0})
    with pytest.raises(InvalidInput, match="mapping"):
        HybridOptimizationConfig(objective_weights=[0.4, 0.3, 0.3])


def test_a_missing_weight_is_zero_and_the_callers_mapping_is_not_kept():
    given = {"speed": 2}
    options = HybridOptimizationConfig(objective_weights=given)
    given["speed"] = 5
    assert options.objective_weights == {"speed": 2.0, "memory": 0.0, "accuracy": 0.0}


@pytest.mark.parametrize("value", ["quantization", [], (), None, 5, {"quantization"}])
def test_strategies_must_be_a_list_of_at_least_one(value):
    with pytest.raises(InvalidInput, match="optimization_strategies"):
        HybridOptimizationConfig(optimization_strategies=value)


def test_an_unknown_strategy_is_refused_and_not_replaced_by_kernel_fusion():
    with pytest.raises(InvalidInput, match="'memory_optimization' is unknown; choose one of kernel_fusion"):
        HybridOptimizationConfig(optimization_strategies=["memory_optimization"])


def test_a_strategy_named_twice_is_refused():
    with pytest.raises(InvalidInput, match="twice"):
        HybridOptimizationConfig(optimization_strategies=["quantization", "quantization"])


def test_an_unknown_selection_method_is_refused():
    known = "tournament, roulette, sus, rank, exponential_rank, pareto, rl"
    with pytest.raises(InvalidInput, match=f"'best' is unknown; choose one of {known}"):
        HybridOptimizationConfig(selection_strategy="best")


@pytest.mark.parametrize("scaling", ["raw", "", None, 1])
def test_a_roulette_scaling_that_does_not_exist_is_refused(scaling):
    with pytest.raises(InvalidInput, match="roulette_scaling .* is unknown; choose one of window, sigma, boltzmann"):
        HybridOptimizationConfig(roulette_scaling=scaling)


@pytest.mark.parametrize(
    ("key", "allowed", "refused", "span"),
    [
        ("rank_pressure", (1, 1.8, 2), (0.99, 2.01, math.nan, "2", True), "a number from 1 to 2"),
        ("rank_decay", (1e-6, 0.9, 0.999), (0, 1, -0.5, math.inf), "a number above 0 to below 1"),
    ],
)
def test_the_pressure_of_ranking_stays_where_the_chances_are_chances(key, allowed, refused, span):
    for value in allowed:
        assert getattr(HybridOptimizationConfig(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(InvalidInput, match=f"{key}=.* is not allowed; give {span}"):
            HybridOptimizationConfig(**{key: value})


def test_asking_for_rl_while_switching_it_off_is_refused():
    with pytest.raises(InvalidInput, match="contradicts itself"):
        HybridOptimizationConfig(selection_strategy="rl", enable_rl_optimization=False)
    with pytest.raises(InvalidInput, match="search_method='rl' with enable_rl_optimization=False contradicts itself"):
        HybridOptimizationConfig(search_method="rl", enable_rl_optimization=False)


@pytest.mark.parametrize("method", [method for method in SELECTION_METHODS if method != "rl"])
def test_rl_wins_over_the_named_method_when_enabled_and_not_otherwise(method):
    assert HybridOptimizationConfig(selection_strategy=method).selection_method == "rl"
    off = HybridOptimizationConfig(selection_strategy=method, enable_rl_optimization=False)
    assert off.selection_method == method


def test_options_survive_json():
    options = HybridOptimizationConfig(num_candidates=3, optimization_strategies=("quantization",))
    assert HybridOptimizationConfig.from_dict(to_json(options)) == options


def test_a_run_configuration_survives_json():
    config = RunConfig("llama", "tiny", "decode", budget_s=60, seed=4, options=HybridOptimizationConfig(rl_gamma=0.5))
    assert RunConfig.from_json(to_json(config)) == config


@pytest.mark.parametrize("budget", [0, -1, 9.99, math.nan, math.inf, 8 * 86_400, "60", None, True])
def test_an_impossible_budget_is_refused_by_name(budget):
    with pytest.raises(InvalidInput, match="budget_s"):
        RunConfig("llama", budget_s=budget)


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", -1), ("seed", 2**31), ("seed", 0.5), ("threads", -1), ("threads", 5000), ("threads", "2")],
)
def test_impossible_run_numbers_are_refused_by_name(field, value):
    with pytest.raises(InvalidInput, match=field):
        RunConfig("llama", **{field: value})


@pytest.mark.parametrize("field", ["model", "size", "workload", "device", "note"])
@pytest.mark.parametrize("value", [None, 5, "x" * 201, "a\x00b"])
def test_impossible_run_texts_are_refused_by_name(field, value):
    with pytest.raises(InvalidInput, match=f"^{field}="):
        RunConfig(**({"model": "llama"} | {field: value}))


def test_an_empty_or_missing_model_is_refused():
    with pytest.raises(InvalidInput, match="model is empty"):
        RunConfig("")
    with pytest.raises(InvalidInput, match="model is missing"):
        RunConfig.from_json({"budget_s": 60})


def test_unknown_run_keys_and_options_that_are_no_mapping_are_refused():
    with pytest.raises(InvalidInput, match="'budget' is unknown"):
        RunConfig.from_json({"model": "llama", "budget": 60})
    with pytest.raises(InvalidInput, match="options="):
        RunConfig.from_json({"model": "llama", "options": [1]})
    with pytest.raises(InvalidInput, match="'speed' is unknown"):
        RunConfig.from_json({"model": "llama", "options": {"speed": 1}})


def test_a_workload_is_chosen_by_name_the_first_by_default_and_unknown_ones_are_refused():
    workloads = (Workload("prefill", "prefill", 1, 512), Workload("decode", "decode", 1, 256, 16))
    assert choose_workload(workloads, "") is workloads[0]
    assert choose_workload(workloads, "decode") is workloads[1]
    with pytest.raises(InvalidInput, match="'forward' is unknown; choose one of prefill, decode"):
        choose_workload(workloads, "forward")


def test_errors_are_one_line_and_cut_hostile_values():
    with pytest.raises(InvalidInput) as caught:
        HybridOptimizationConfig(selection_strategy="x\n" * 5000)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_the_default_strategies_are_the_documented_four_in_order():
    assert HybridOptimizationConfig().optimization_strategies == STRATEGY_NAMES


def test_named_settings_arrive_as_tuples_and_an_empty_list_means_the_usual_ones():
    options = HybridOptimizationConfig(strategy_settings={"quantization": ["bfloat16"], "kernel_fusion": []})
    assert options.strategy_settings == {"quantization": ("bfloat16",)}
    config = RunConfig("llama", options=options)
    assert RunConfig.from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["quantization"], "map strategies to lists"),
        ({"quantum": ["a"]}, "strategy_settings 'quantum' is unknown"),
        ({"quantization": "bfloat16"}, "list names of settings"),
        ({"quantization": [""]}, "list names of settings"),
        ({"quantization": [3]}, "list names of settings"),
        ({"quantization": ["a", "a"]}, "repeats a name"),
    ],
)
def test_settings_that_are_no_lists_of_names_are_refused_in_one_sentence(settings, said):
    with pytest.raises(InvalidInput) as refused:
        HybridOptimizationConfig(strategy_settings=settings)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_settings_of_a_strategy_that_is_not_used_are_refused():
    with pytest.raises(InvalidInput, match="strategy_settings 'quantization' is unknown; choose one of kernel_fusion"):
        HybridOptimizationConfig(
            optimization_strategies=("kernel_fusion",), strategy_settings={"quantization": ("bfloat16",)}
        )
