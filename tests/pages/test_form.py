"""The form: what stands in it is what is submitted, once; what is not allowed is said beside its field."""

import dataclasses
import json
import re
import shlex

import pytest

from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.records import SELECTION_METHODS
from pages.components import run_form
from tests.pages.fake_catalog import catalog


def values(**changes):
    return {**run_form.default_values(catalog()), **changes}


def test_an_untouched_form_submits_the_documented_defaults(client, open_page):
    open_page("optimize").button(key="opt_start").click().run()
    (config,) = client.submissions.values()
    sent = RunConfig.from_json(config)
    available = ("attention_fusion", "kernel_fusion", "quantization")
    documented = HybridOptimizationConfig(optimization_strategies=available, selection_strategy="rl")
    assert sent.options == documented
    assert (sent.model, sent.size, sent.workload, sent.device) == ("llama", "tiny", "prefill", "cpu")


def test_each_changed_field_arrives_in_the_submitted_configuration(client, open_page):
    at = open_page("optimize")
    at.selectbox(key="opt_model").select("llama")
    at.selectbox(key="opt_size").select("small")
    at.selectbox(key="opt_workload").select("decode")
    at.checkbox(key="opt_use_quantization").uncheck()
    at.slider(key="opt_weight_speed").set_value(50)
    at.slider(key="opt_weight_memory").set_value(50)
    at.slider(key="opt_weight_accuracy").set_value(0)
    at.radio(key="opt_method").set_value("rank")
    numbers = {"threads": 2, "budget_s": 600.0, "seed": 7, "num_candidates": 8, "max_iterations": 3}
    numbers |= {"min_accuracy_preservation": 0.95, "min_speed_improvement": 0.5, "tournament_size": 4}
    numbers |= {"performance_threshold": 0.7, "convergence_threshold": 0.02}
    for name, value in numbers.items():
        at.number_input(key=f"opt_{name}").set_value(value)
    at.text_input(key="opt_note").set_value("why not")
    at.toggle(key="opt_enable_ensemble_optimization").set_value(False)
    at.button(key="opt_start").click().run()
    sent = RunConfig.from_json(next(iter(client.submissions.values())))
    everything = {**dataclasses.asdict(sent.options), **dataclasses.asdict(sent)}
    assert {name: everything[name] for name in numbers} == numbers
    assert (sent.size, sent.workload, sent.note) == ("small", "decode", "why not")
    assert sent.options.optimization_strategies == ("attention_fusion", "kernel_fusion")
    assert sent.options.objective_weights == {"speed": 0.5, "memory": 0.5, "accuracy": 0.0}
    assert sent.options.selection_method == "rank"
    assert not sent.options.enable_ensemble_optimization


def test_after_submission_the_live_page_of_that_run_opens(client, open_page):
    at = open_page("optimize")
    at.button(key="opt_start").click().run()
    assert at.title[0].value == "Live"
    assert at.query_params["run"] == "run-1"


def test_an_answer_lost_and_start_pressed_again_is_one_run(client, open_page):
    client.loses_answers = 1
    at = open_page("optimize")
    at.slider(key="opt_weight_speed").set_value(70)
    at.button(key="opt_start").click().run()
    assert "press start again" in at.error[0].value
    assert at.slider(key="opt_weight_speed").value == 70
    at.button(key="opt_start").click().run()
    assert len(client.submissions) == 1
    assert at.query_params["run"] == "run-1"


def test_a_second_click_on_the_same_form_gives_the_same_token():
    config = run_form.build_config(values())
    assert run_form.submission_token("n", config) == run_form.submission_token("n", dict(config))
    assert run_form.submission_token("n", config) != run_form.submission_token("other visit", config)
    changed = run_form.build_config(values(seed=1))
    assert run_form.submission_token("n", config) != run_form.submission_token("n", changed)


def test_coming_back_and_starting_the_same_again_is_a_new_run(client, open_page):
    at = open_page("optimize")
    at.button(key="opt_start").click().run()
    at.switch_page("pages/optimize.py").run()
    at.button(key="opt_start").click().run()
    assert len(client.submissions) == 2


def test_the_hubs_refusal_is_shown_and_the_form_keeps_its_content(client, open_page, monkeypatch):
    def refuse(config, token=""):
        raise InvalidInput("budget_s=300.0 is more than the hub allows today; give at most 200")

    monkeypatch.setattr(client, "submit", refuse)
    at = open_page("optimize")
    at.number_input(key="opt_seed").set_value(11)
    at.button(key="opt_start").click().run()
    assert "more than the hub allows today" in at.error[0].value.replace("\\", "")
    assert at.number_input(key="opt_seed").value == 11
    assert not at.exception


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("budget_s", 0.0, "budget_s"), ("num_candidates", 0, "num_candidates"), ("threads", -1, "threads")],
)
def test_an_impossible_number_is_said_beside_its_field_and_start_is_closed(client, open_page, field, value, said):
    at = open_page("optimize")
    at.number_input(key=f"opt_{field}").set_value(value).run()
    (error,) = [e.value.replace("\\", "") for e in at.error]
    assert error.startswith(said)
    assert at.button(key="opt_start").disabled


def test_weights_that_are_all_zero_are_refused_by_name(client, open_page):
    at = open_page("optimize")
    for name in ("speed", "memory", "accuracy"):
        at.slider(key=f"opt_weight_{name}").set_value(0)
    at.run()
    assert "all zero" in at.error[0].value
    assert at.button(key="opt_start").disabled


def test_no_strategy_at_all_is_refused_by_name(client, open_page):
    at = open_page("optimize")
    for box in at.checkbox:
        if not box.disabled:
            box.uncheck()
    at.run()
    assert "optimization_strategies" in at.error[0].value.replace("\\", "")


def test_a_strategy_with_no_setting_here_is_closed_and_says_why(client, open_page):
    at = open_page("optimize")
    assert at.checkbox(key="opt_use_memory_pooling").disabled
    assert "needs a workload with a cache" in "".join(m.value for m in at.markdown)


def test_claims_of_the_document_are_called_claims(client, open_page):
    captions = [c.value.replace("\\", "") for c in open_page("optimize").caption]
    assert "Claimed by the document, to be tested: speed 1.5×, memory 2.0×, accuracy 97 %" in captions


def test_switches_of_reinforcement_learning_are_open_only_with_it(client, open_page):
    at = open_page("optimize")
    assert not at.toggle(key="opt_enable_dapo").disabled
    at.radio(key="opt_method").set_value("rank").run()
    assert at.toggle(key="opt_enable_dapo").disabled


def test_the_way_to_search_arrives_in_the_submitted_configuration(client, open_page):
    at = open_page("optimize")
    assert at.selectbox(key="opt_search_method").value == "adaptive"
    at.selectbox(key="opt_search_method").select("random")
    at.button(key="opt_start").click().run()
    sent = RunConfig.from_json(next(iter(client.submissions.values())))
    assert sent.options.search_method == "random"


def test_a_way_to_search_that_is_not_to_be_had_is_not_offered_and_says_why(client, open_page):
    at = open_page("optimize")
    assert at.selectbox(key="opt_search_method").options == [
        "Adaptive", "Selection and recombination", "Random", "Reinforcement learning"
    ]  # fmt: skip
    assert "Surrogate is not offered here: scikit-learn is missing" in [c.value.replace("\\", "") for c in at.caption]


def test_where_nothing_is_recombined_the_selection_method_is_closed(client, open_page):
    at = open_page("optimize", search_method="random", method="rank")
    assert at.selectbox(key="opt_search_method").value == "random"
    assert at.radio(key="opt_method").disabled and at.toggle(key="opt_enable_dapo").disabled
    at.selectbox(key="opt_search_method").select("selection").run()
    assert not at.radio(key="opt_method").disabled and at.toggle(key="opt_enable_dapo").disabled
    at.selectbox(key="opt_search_method").select("rl").run()
    assert at.radio(key="opt_method").disabled and not at.toggle(key="opt_enable_dapo").disabled
    at.button(key="opt_start").click().run()
    sent = RunConfig.from_json(next(iter(client.submissions.values())))
    assert (sent.options.search_method, sent.options.enable_rl_optimization) == ("rl", True)


def test_the_address_fills_the_form(client, open_page):
    at = open_page("optimize", model="convnet", strategies="kernel_fusion", method="rank", budget_s="60")
    assert at.selectbox(key="opt_model").value == "convnet"
    assert at.selectbox(key="opt_workload").value == "forward"
    assert [b.key for b in at.checkbox if b.value] == ["opt_use_kernel_fusion"]
    assert at.number_input(key="opt_budget_s").value == 60


@pytest.mark.parametrize(
    "params",
    [
        {"model": "gpt-9"},
        {"size": "huge"},
        {"workload": "<b>x</b>"},
        {"strategies": "magic,quantization"},
        {"budget_s": "soon"},
        {"budget_s": "nan"},
        {"search_method": "telepathy"},
        {"search_method": "surrogate"},
    ],
)
def test_a_part_of_the_address_that_is_not_understood_is_explained(params, client, open_page):
    at = open_page("optimize", **params)
    assert not at.exception
    assert "The address was not fully understood" in at.info[0].value
    assert not at.button(key="opt_start").disabled


def test_the_json_beside_the_form_is_the_configuration_itself(client, open_page):
    at = open_page("optimize")
    shown = json.loads(next(c.value for c in at.code if c.language == "json"))
    at.button(key="opt_start").click().run()
    assert shown == next(iter(client.submissions.values()))


def test_the_command_line_means_the_same_run():
    from workers.__main__ import build_parser, run_config

    changes = {"method": "rank", "search_method": "selection", "enable_orz": False}
    config = run_form.build_config(values(seed=3, budget_s=90.0, note="it's 50 % off", **changes))
    words = shlex.split(run_form.command_line(config))
    assert words[:3] == ["python", "-m", "workers"]
    assert words[words.index("--search-method") + 1] == "selection"
    again = RunConfig.from_json(run_config(build_parser().parse_args(words[3:])))
    assert again == RunConfig.from_json(config)


METHOD_OPTIONS = {
    "tournament": {"tournament_replacement": True},
    "roulette": {"roulette_scaling": "sigma"},
    "sus": {"roulette_scaling": "boltzmann"},
    "rank": {"rank_pressure": 1.2},
    "exponential_rank": {"rank_decay": 0.5},
}


@pytest.mark.parametrize("method", SELECTION_METHODS)
def test_each_selection_method_can_be_chosen_and_shows_the_options_it_reads(client, open_page, method):
    at = open_page("optimize", method=method)
    assert at.radio(key="opt_method").value == method
    all_names = {name for options in METHOD_OPTIONS.values() for name in options}
    widgets = {w.key.removeprefix("opt_"): w for w in [*at.toggle, *at.selectbox, *at.number_input]}
    chosen = METHOD_OPTIONS.get(method, {})
    assert all_names & set(widgets) == set(chosen)
    for name, value in chosen.items():
        widgets[name].set_value(value)
    at.button(key="opt_start").click().run()
    sent = RunConfig.from_json(next(iter(client.submissions.values())))
    assert sent.options.selection_method == method
    assert {name: getattr(sent.options, name) for name in chosen} == chosen


@pytest.mark.parametrize(("method", "options"), METHOD_OPTIONS.items())
def test_the_command_line_carries_the_options_of_each_selection_method(method, options):
    from workers.__main__ import build_parser, run_config

    config = run_form.build_config(values(method=method, **options))
    words = shlex.split(run_form.command_line(config))
    again = RunConfig.from_json(run_config(build_parser().parse_args(words[3:])))
    assert again == RunConfig.from_json(config)
    assert {name: getattr(again.options, name) for name in options} == options


def test_the_command_line_names_the_settings_that_were_chosen():
    from workers.__main__ import build_parser, run_config

    config = run_form.build_config(values(settings={"quantization": ["bfloat16"], "kernel_fusion": ["fold"]}))
    words = shlex.split(run_form.command_line(config))
    again = RunConfig.from_json(run_config(build_parser().parse_args(words[3:])))
    assert again.options.strategy_settings == {"quantization": ("bfloat16",), "kernel_fusion": ("fold",)}
    assert again == RunConfig.from_json(config)


def test_the_usual_settings_are_preselected_and_the_others_are_said_with_their_reason(client, open_page):
    for strategy in client.the_catalog["strategies"]:
        if strategy["name"] == "quantization":
            strategy["settings"][0]["on_request"] = "It hardly ever pays here."
            rare, usual = strategy["settings"][0]["name"], [s["name"] for s in strategy["settings"][1:]]
    at = open_page("optimize")
    assert at.multiselect(key="opt_settings_quantization").value == [
        name for name in usual if name in at.multiselect(key="opt_settings_quantization").options
    ]
    assert any("Tried only when chosen: It hardly ever pays here" in m.value for m in at.markdown)
    at.multiselect(key="opt_settings_quantization").set_value([rare]).run()
    at.button(key="opt_start").click().run()
    sent = RunConfig.from_json(next(iter(client.submissions.values())))
    assert sent.options.strategy_settings == {"quantization": (rare,)}


def test_a_strategy_without_a_chosen_setting_closes_the_start_button(client, open_page):
    at = open_page("optimize")
    at.multiselect(key="opt_settings_quantization").set_value([]).run()
    assert "No setting of" in at.error[0].value
    assert at.button(key="opt_start").disabled
    at.checkbox(key="opt_use_quantization").uncheck().run()
    assert not at.error and not at.button(key="opt_start").disabled


def test_the_estimate_grows_with_the_budget_and_refuses_one_that_is_too_short():
    def count(budget_s):
        return int(re.search(r"about (\d+)", run_form.fitting_sentence(catalog(), values(budget_s=budget_s))).group(1))

    assert count(120.0) < count(240.0) < count(480.0)
    assert "Too short" in run_form.fitting_sentence(catalog(), values(budget_s=20.0))


def test_no_candidate_is_promised_in_less_than_a_measurement_takes():
    told = run_form.fitting_sentence(catalog(), values(budget_s=240.0))
    least_s = float(re.search(r"candidates at ([\d.]+) s to", told).group(1))
    costs = [s["expected_cost_s"] for strategy in catalog()["strategies"] for s in strategy["settings"]]
    assert least_s >= catalog()["trial_overhead_s"] + min(costs) - 0.5


def test_a_setting_may_be_available_on_another_device_only():
    setting = {"unavailable": "no GPU", "unavailable_on": {"cpu": "no GPU", "cuda:0": None}}
    assert run_form.reason_against(setting, "cpu") == "no GPU"
    assert run_form.reason_against(setting, "cuda:0") == ""


def test_normalised_weights_sum_to_one_and_say_what_they_mean():
    shares = run_form.normalised_weights(values(weight_speed=60, weight_memory=30, weight_accuracy=30))
    assert shares == {"speed": 0.5, "memory": 0.25, "accuracy": 0.25}
    assert "20 % less peak memory" in run_form.weights_sentence(shares)
