"""From what stands in the form to a run configuration, and from an address to a form; pure functions.

Validation is `RunConfig`'s own: each field is checked alone, so its sentence can stand beside it, then all together.
Defaults come from the configuration classes, so form, command line and Python agree.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_core.config import DEFAULT_WEIGHTS, OBJECTIVES, HybridOptimizationConfig, RunConfig
from hybrid_core.errors import InvalidInput
from pages.components.format import duration, one_line
from pages.components.model_facts import fit_on

Values = dict[str, Any]
RUN_FIELDS = ("threads", "budget_s", "seed", "note")
OPTION_FIELDS = (
    "search_method",
    "enable_ensemble_optimization",
    "enable_adaptive_hybrid",
    "enable_dapo",
    "enable_vapo",
    "enable_orz",
    "num_candidates",
    "tournament_size",
    "tournament_replacement",
    "roulette_scaling",
    "rank_pressure",
    "rank_decay",
    "performance_threshold",
    "convergence_threshold",
    "max_iterations",
    "min_accuracy_preservation",
    "min_speed_improvement",
)
# key of the options -> flag of `python -m workers optimize`
FLAGS = {
    "search_method": "search-method",
    "min_accuracy_preservation": "min-accuracy",
    "min_speed_improvement": "min-speed",
    "num_candidates": "candidates",
    "max_iterations": "iterations",
}


def default_values(catalog: Mapping[str, Any]) -> Values:
    """A form as it is first shown: the first model, everything available, the documented options."""
    options, model = HybridOptimizationConfig(), catalog["models"][0]
    run = RunConfig(model=model["name"])
    values: Values = {name: getattr(options, name) for name in OPTION_FIELDS}
    values.update({name: getattr(run, name) for name in RUN_FIELDS})
    values.update({f"weight_{name}": round(100 * DEFAULT_WEIGHTS[name]) for name in OBJECTIVES})
    values.update(model=model["name"], size=model["sizes"][0], device=catalog["devices"][0]["id"])
    values["workload"] = workload_names(model, values["size"])[0]
    values["strategies"] = [s["name"] for s in catalog["strategies"] if is_available(s)]
    values["settings"] = {}
    values["method"] = options.selection_method
    return values


def search_methods(catalog: Mapping[str, Any]) -> list[str]:
    """The names of the ways to search that this machine offers, the default first."""
    return [m["name"] for m in catalog["search_methods"] if not m.get("unavailable")]


def workload_names(model: Mapping[str, Any], size: str) -> list[str]:
    """The names of a model's workloads at a size."""
    return [w["name"] for w in model["workloads"].get(size, [])]


def reason_against(setting: Mapping[str, Any], device: str = "") -> str:
    """Why a setting cannot be tried on a device; "" when it can."""
    by_device = setting.get("unavailable_on") or {}
    return str((by_device[device] if device in by_device else setting.get("unavailable")) or "")


def is_available(strategy: Mapping[str, Any], device: str = "") -> bool:
    """Whether at least one setting can be tried on this device."""
    return any(not reason_against(s, device) for s in strategy["settings"])


def usual_settings(strategy: Mapping[str, Any], device: str = "") -> list[str]:
    """The settings that a search on this device tries when nobody names any."""
    return [s["name"] for s in strategy["settings"] if not reason_against(s, device) and not s.get("on_request")]


def settings_to_try(strategy: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """The settings of a strategy that stand in the form; `values["settings"]` holds only unusual choices."""
    chosen = values["settings"].get(strategy["name"])
    return usual_settings(strategy, values["device"]) if chosen is None else list(chosen)


def settings_errors(catalog: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
    """A sentence for each chosen strategy whose settings were all taken out."""
    return {
        f"settings_{strategy['name']}": f"No setting of {strategy['title']} is chosen; choose one, or leave the "
        "strategy out."
        for strategy in catalog["strategies"]
        if strategy["name"] in values["strategies"] and values["settings"].get(strategy["name"]) == []
    }


def read_address(catalog: Mapping[str, Any], params: Mapping[str, str]) -> tuple[Values, list[str]]:
    """The form values an address asks for, and one sentence for each part that was not understood."""
    models = {m["name"]: m for m in catalog["models"]}
    strategies = {s["name"]: is_available(s) for s in catalog["strategies"]}
    model = models.get(params.get("model", ""), catalog["models"][0])
    size = params.get("size") if params.get("size") in model["sizes"] else model["sizes"][0]
    allowed: dict[str, Sequence[str]] = {
        "model": list(models),
        "size": model["sizes"],
        "workload": workload_names(model, str(size)),
        "device": [d["id"] for d in catalog["devices"]],
        "method": [m["name"] for m in catalog["selection_methods"]],
        "search_method": search_methods(catalog),
    }
    values, problems = {}, []
    for name, choices in allowed.items():
        if name in params and params[name] in choices:
            values[name] = params[name]
        elif params.get(name):
            problems.append(f"the {name} {params[name]!r:.60} is unknown here; known are {', '.join(choices)}")
    if "model" in values:
        values.setdefault("size", size)
        values.setdefault("workload", allowed["workload"][0])
    if params.get("strategies"):
        asked = params["strategies"].split(",")
        if usable := [s for s in asked if strategies.get(s)]:
            values["strategies"] = usable
        problems += [
            f"the strategy {s!r:.60} is {'not available on this machine' if s in strategies else 'unknown'}"
            for s in asked
            if not strategies.get(s)
        ]
    if params.get("budget_s"):
        try:
            values["budget_s"] = RunConfig(model="any", budget_s=float(params["budget_s"])).budget_s
        except ValueError as error:
            problems.append(one_line(error))
    return values, problems


def normalised_weights(values: Mapping[str, Any]) -> dict[str, float]:
    """The three weights as shares of one; all zero stays all zero, for the validation to refuse."""
    raw = {name: float(values[f"weight_{name}"]) for name in OBJECTIVES}
    total = sum(raw.values())
    return {name: round(value / total, 4) if total > 0 else 0.0 for name, value in raw.items()}


def weights_sentence(weights: Mapping[str, float]) -> str:
    """What the weights mean in terms of each other.

    >>> weights_sentence({"speed": 0.5, "memory": 0.25, "accuracy": 0.25})
    'Being 10 % faster counts as much as needing 20 % less peak memory.'
    """
    speed, memory, accuracy = (weights[name] for name in OBJECTIVES)
    if sum(weights.values()) <= 0:
        return ""
    if speed and memory:
        return f"Being 10 % faster counts as much as needing {10 * speed / memory:.0f} % less peak memory."
    only = "speed" if speed else "peak memory" if memory else ""
    if not only:
        return "Only accuracy counts, so the untouched model will be hard to beat."
    return f"Only {only} and accuracy count." if accuracy else f"Only {only} counts, within the accuracy bound."


def build_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The run configuration as JSON-able data, ready to submit; not yet validated."""
    options = {name: values[name] for name in OPTION_FIELDS}
    options["optimization_strategies"] = list(values["strategies"])
    settings = values["settings"]
    options["strategy_settings"] = {name: list(settings[name]) for name in values["strategies"] if settings.get(name)}
    options["objective_weights"] = normalised_weights(values)
    # A search by reinforcement learning alone has no other method to choose parents, whatever the closed field says.
    method = "rl" if values["search_method"] == "rl" else values["method"]
    options["enable_rl_optimization"] = method == "rl"
    options["selection_strategy"] = method
    names = ("model", "size", "workload", "device", *RUN_FIELDS)
    return {**{name: values[name] for name in names}, "options": options}


def field_errors(values: Mapping[str, Any]) -> dict[str, str]:
    """What is not allowed, by field: the sentence of the configuration class itself."""
    config = build_config(values)
    errors: dict[str, str] = {}
    for name in RUN_FIELDS:
        _note_error(errors, name, {"model": "any", name: config[name]})
    for name in (*OPTION_FIELDS, "optimization_strategies", "objective_weights"):
        _note_error(errors, name, {"model": "any", "options": {name: config["options"][name]}})
    return errors


def fit_errors(catalog: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
    """The sentence with both figures where the chosen size does not fit on the chosen device."""
    model = next((m for m in catalog["models"] if m["name"] == values["model"]), {})
    fit = fit_on(model, values["size"], values["device"])
    if fit.get("fits") is not False:
        return {}
    return {"size": f"{fit.get('sentence')} Choose a smaller size or another device."}


def fitting_sentence(catalog: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """How many candidates fit into the budget, from what each measurement and each setting is expected to take."""
    overhead_s = float(catalog["trial_overhead_s"])
    costs = [
        overhead_s + float(setting["expected_cost_s"])
        for strategy in catalog["strategies"]
        if strategy["name"] in values["strategies"]
        for setting in strategy["settings"]
        if setting["name"] in settings_to_try(strategy, values)
    ]
    if not costs or not isinstance(values["budget_s"], int | float) or not math.isfinite(values["budget_s"]):
        return ""
    mean = sum(costs) / len(costs)
    # The A/A check before the search (at most 15 % of the budget) and the final race after it (at most half) take their
    # share first: three processes of the untouched model, and three of each of three finalists.
    kept_s = min(0.65 * values["budget_s"], 12 * overhead_s)
    fits = max(0, math.floor((values["budget_s"] - kept_s) / mean))
    most = values["num_candidates"] * values["max_iterations"] + len(costs)
    if fits == 0:
        return f"Too short: one candidate takes about {duration(mean)}; allow at least {duration(5 * mean)}."
    count = (
        ("about 1 candidate" if fits == 1 else f"about {fits} candidates") if fits < most else f"all {most} candidates"
    )
    return f"Time for {count} at {duration(min(costs))} to {duration(max(costs))} each, final race included."


def command_line(config: Mapping[str, Any]) -> str:
    """The same run from a terminal."""
    options, defaults = config["options"], HybridOptimizationConfig()
    weights = ",".join(f"{name}={value:g}" for name, value in options["objective_weights"].items())
    method = "rl" if options["enable_rl_optimization"] else options["selection_strategy"]
    said = {name: config[name] for name in ("model", "size", "workload", "device", "threads", "seed", "note")}
    said |= {"budget": config["budget_s"], "method": method, "weights": weights}
    said["strategies"] = ",".join(options["optimization_strategies"])
    said["settings"] = ";".join(f"{name}={','.join(names)}" for name, names in options["strategy_settings"].items())
    said |= {flag: options[name] for name, flag in FLAGS.items()}
    has_flag = {
        *FLAGS,
        "strategy_settings",
        "optimization_strategies",
        "objective_weights",
        "enable_rl_optimization",
        "selection_strategy",
    }
    others = {name: v for name, v in options.items() if name not in has_flag and v != getattr(defaults, name)}
    said["options"] = json.dumps(others) if others else ""
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in said.items() if value != ""]
    return " ".join(["python -m workers optimize", *words])


def submission_token(nonce: str, config: Mapping[str, Any]) -> str:
    """The same form sent twice is the same submission; a changed form is a new one."""
    return hashlib.sha256((nonce + json.dumps(config, sort_keys=True)).encode()).hexdigest()[:32]


def _note_error(errors: dict[str, str], name: str, config: dict[str, Any]) -> None:
    try:
        RunConfig.from_json(config)
    except InvalidInput as error:
        errors[name] = str(error)
