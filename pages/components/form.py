"""The widgets of the optimize form; what they hold lives in the session, so it survives errors and page changes.

Values are read from the session *before* the widgets are drawn: Streamlit has put the person's last change there
already, so what is not allowed can be said right below its field in the same run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from hybrid_core.config import ROULETTE_SCALINGS
from pages.components import model_facts, run_form
from pages.components.format import TIMES, is_number, percent, plain
from pages.components.methods import HOW_THEY_RELATE, RECOMBINING, method_title, search_title

RL_SWITCHES = (
    ("enable_dapo", "DAPO", "Trains only on groups of episodes in which some but not all succeed; decoupled clip."),
    ("enable_vapo", "VAPO", "Pretrains the value network and adapts GAE to the episode's length."),
    ("enable_orz", "ORZ", "Shapes the reward by zones of measured fitness."),
)


def key_of(name: str) -> str:
    """The session key of a form field."""
    return f"opt_{name}"


def prefill(catalog: Mapping[str, Any], params: Mapping[str, str]) -> list[str]:
    """Fill missing fields with defaults and, once per address, with what the address asks for; returns the problems."""
    state = st.session_state
    for name, value in run_form.default_values(catalog).items():
        if name == "strategies":
            for strategy in catalog["strategies"]:
                state.setdefault(key_of(f"use_{strategy['name']}"), strategy["name"] in value)
        elif name != "settings":
            state.setdefault(key_of(name), value)
    asked, problems = run_form.read_address(catalog, params)
    if state.get("opt_address") != params:
        state["opt_address"] = dict(params)
        _put(asked, catalog)
    return problems


def read_values(catalog: Mapping[str, Any]) -> run_form.Values:
    """What the form holds now, selections that are no longer offered replaced by the first that is."""
    state = st.session_state
    values = {name: state.get(key_of(name)) for name in run_form.default_values(catalog)}
    model = next((m for m in catalog["models"] if m["name"] == values["model"]), catalog["models"][0])
    values["model"] = _offered("model", [m["name"] for m in catalog["models"]])
    values["size"] = _offered("size", model["sizes"])
    values["workload"] = _offered("workload", run_form.workload_names(model, values["size"]))
    values["device"] = _offered("device", [d["id"] for d in catalog["devices"]])
    values["strategies"] = [
        s["name"]
        for s in catalog["strategies"]
        if state.get(key_of(f"use_{s['name']}")) and run_form.is_available(s, values["device"])
    ]
    values["settings"] = _unusual_settings(catalog, values["device"])
    values["method"] = _offered("method", [m["name"] for m in catalog["selection_methods"]])
    values["search_method"] = _offered("search_method", run_form.search_methods(catalog))
    return values


def say(errors: Mapping[str, str], *names: str) -> None:
    """The sentences of what is not allowed, right below the field."""
    for name in names:
        if name in errors:
            st.error(plain(errors[name]), icon=":material/edit:")


def subject(catalog: Mapping[str, Any], values: run_form.Values, errors: Mapping[str, str]) -> None:
    """What is optimized, and where."""
    models = {m["name"]: m for m in catalog["models"]}
    devices = {d["id"]: d for d in catalog["devices"]}
    model = models[values["model"]]
    workloads = {w["name"]: w.get("label") or w["name"] for w in model["workloads"].get(values["size"], [])}
    with st.grid(3, min_column_width=220):
        _select("model", "Model", {n: model_facts.title_of(m) for n, m in models.items()})
        _select("size", "Size", {size: size for size in model["sizes"]})
        _select("workload", "Workload", workloads)
        _select("device", "Device", {d: v.get("title") or d for d, v in devices.items()})
        usual = devices[values["device"]].get("threads")
        text = f"0 means this device's usual number, {usual}." if usual else "0 means this device's usual number."
        _widget(st.number_input, "threads", "Threads", step=1, help=text)
    say(errors, "threads", "size")
    st.caption(plain(_subject_facts(model, values), 700))


def strategies(catalog: Mapping[str, Any], values: run_form.Values, errors: Mapping[str, str]) -> None:
    """Check boxes with what each strategy does here, and what was claimed for it."""
    with st.grid(2, min_column_width=320):
        for strategy in catalog["strategies"]:
            available = run_form.is_available(strategy, values["device"])
            with st.container(border=True, height="stretch"):
                label = f"**{plain(strategy['title'])}**"
                _widget(st.checkbox, f"use_{strategy['name']}", label, disabled=not available, wrap=True)
                st.markdown(plain(strategy.get("purpose")))
                _settings(strategy, values, errors)
                if claims := _claims(strategy.get("claimed")):
                    st.caption(f"Claimed by the document, to be tested: {plain(claims)}")
    say(errors, "optimization_strategies")


def _settings(strategy: Mapping[str, Any], values: run_form.Values, errors: Mapping[str, str]) -> None:
    """What of a strategy is tried, and in words what each setting does or why it is not tried by itself."""
    device, name = values["device"], f"settings_{strategy['name']}"
    offered = _offered_settings(strategy, device)
    chosen = run_form.settings_to_try(strategy, values)
    say(errors, name)
    with st.expander(f"{len(chosen)} of {len(strategy['settings'])} settings"):
        if offered:
            _widget(st.multiselect, name, "Settings to try", offered, placeholder="Choose at least one")
        st.markdown("\n".join(_setting_line(s, device) for s in strategy["settings"]))


def search_method(catalog: Mapping[str, Any], values: run_form.Values) -> None:
    """Who proposes the next recipes, with the sentence of what is chosen."""
    known = {m["name"]: m for m in catalog["search_methods"]}
    options = run_form.search_methods(catalog)
    _widget(st.selectbox, "search_method", "Search method", options, format_func=search_title, help=HOW_THEY_RELATE)
    st.caption(plain(known[values["search_method"]].get("sentence"), 500))
    for name, entry in known.items():
        if entry.get("unavailable"):
            st.caption(f"{plain(search_title(name))} is not offered here: {plain(entry['unavailable'])}")


def method(catalog: Mapping[str, Any], values: run_form.Values) -> None:
    """Who chooses the parents of the next candidates; closed where the way to search needs no parents."""
    sentences = {m["name"]: str(m.get("sentence") or "") for m in catalog["selection_methods"]}
    captions = [plain(sentence) for sentence in sentences.values()]
    is_used = values["search_method"] in RECOMBINING
    _widget(
        st.radio, "method", "Selection method", list(sentences), format_func=method_title, captions=captions,
        help=HOW_THEY_RELATE, disabled=not is_used,
    )  # fmt: skip
    if is_used:
        _method_options(values["method"])
    else:
        st.caption(f"{plain(search_title(values['search_method']))} needs no parents, so nothing is selected.")
    learns = "rl" in (values["method"] if is_used else "", values["search_method"])
    with st.container(horizontal=True):
        for name, label, text in RL_SWITCHES:
            _widget(st.toggle, name, label, help=text, disabled=not learns)


def weights(values: run_form.Values, errors: Mapping[str, str]) -> None:
    """Three sliders, read back as shares and as what they mean."""
    with st.grid(3, min_column_width=180):
        for name in run_form.OBJECTIVES:
            _widget(st.slider, f"weight_{name}", name.capitalize(), 0, 100)
    shares = run_form.normalised_weights(values)
    if sum(shares.values()) > 0:
        text = ", ".join(f"{name} {percent(share, digits=0)}" for name, share in shares.items())
        st.caption(plain(f"As shares: {text}. {run_form.weights_sentence(shares)}"))
    say(errors, "objective_weights")


def bounds(values: run_form.Values, errors: Mapping[str, str]) -> None:
    """What a winner must keep, whatever it gains."""
    with st.grid(2, min_column_width=240):
        text = "The pessimistic end of the winner's accuracy interval must reach this share of the baseline's."
        _widget(st.number_input, "min_accuracy_preservation", "Accuracy to keep", step=0.005, format="%.3f", help=text)
        text = "A winner whose whole speed interval lies below this is refused. Below 1 trades speed for memory."
        _widget(st.number_input, "min_speed_improvement", "Minimum speed", step=0.05, format="%.2f", help=text)
    say(errors, "min_accuracy_preservation", "min_speed_improvement")


def effort(catalog: Mapping[str, Any], values: run_form.Values, errors: Mapping[str, str]) -> None:
    """How long to search, with an estimate of what fits."""
    with st.grid(3, min_column_width=200):
        _widget(st.number_input, "budget_s", "Time budget (s)", step=30.0, format="%.0f")
        _widget(st.number_input, "num_candidates", "Candidates per iteration", step=1)
        _widget(st.number_input, "max_iterations", "Iterations at most", step=1)
    say(errors, "budget_s", "num_candidates", "max_iterations")
    if sentence := run_form.fitting_sentence(catalog, values):
        st.caption(plain(sentence))


def advanced(errors: Mapping[str, str]) -> None:
    """What rarely needs a change."""
    with st.expander("Seed, note and thresholds"):
        with st.grid(2, min_column_width=240):
            _widget(st.number_input, "seed", "Seed", step=1)
            _widget(st.text_input, "note", "Note", max_chars=200, placeholder="Why this run?")
            _widget(st.number_input, "tournament_size", "Tournament size", step=1)
            _widget(st.number_input, "performance_threshold", "Performance threshold", step=0.05, format="%.2f")
            _widget(st.number_input, "convergence_threshold", "Convergence threshold", step=0.005, format="%.3f")
        _widget(st.toggle, "enable_ensemble_optimization", "Combine strategies")
        _widget(st.toggle, "enable_adaptive_hybrid", "Start from what earlier runs of this family found")
        say(errors, "seed", "note", "tournament_size", "performance_threshold", "convergence_threshold")


def _method_options(name: str) -> None:
    """The options that only this selection method reads; their bounds are those of the configuration."""
    if name == "tournament":
        text = "Those who meet are drawn one by one from all candidates, so that even the worst can win."
        _widget(st.toggle, "tournament_replacement", "A candidate may meet itself", help=text)
    if name in ("roulette", "sus"):
        text = "window: height above the worst; sigma: spread around the mean; boltzmann: exponential in the fitness."
        _widget(st.selectbox, "roulette_scaling", "Scaling of the wheel", list(ROULETTE_SCALINGS), help=text)
    if name == "rank":
        text = "Copies that the best expects in as many draws as there are candidates: 1 treats all alike."
        _widget(st.number_input, "rank_pressure", "Pressure", 1.0, 2.0, step=0.1, format="%.2f", help=text)
    if name == "exponential_rank":
        text = "Each rank's share of the chance of the rank above it: the smaller, the greedier."
        _widget(st.number_input, "rank_decay", "Decay", 0.01, 0.99, step=0.05, format="%.2f", help=text)


def _subject_facts(model: Mapping[str, Any], values: run_form.Values) -> str:
    """What the chosen model is, how large, and whether it fits on the chosen device."""
    facts = model_facts.facts_of(model, values["size"])
    parts = [str(model.get("description") or "")]
    if is_number(facts.get("parameters")):
        parts.append(f"{facts['parameters']:,} parameters.")
    parts.append(model_facts.accuracy_means(model, values["size"]))
    fit = model_facts.fit_on(model, values["size"], values["device"])
    if fit.get("fits"):
        parts.append(str(fit.get("sentence") or ""))
    return " ".join(part for part in parts if part)


def _put(asked: run_form.Values, catalog: Mapping[str, Any]) -> None:
    for name, value in asked.items():
        if name != "strategies":
            st.session_state[key_of(name)] = value
    if "strategies" in asked:
        for strategy in catalog["strategies"]:
            st.session_state[key_of(f"use_{strategy['name']}")] = strategy["name"] in asked["strategies"]


def _offered(name: str, options: Sequence[str]) -> str:
    if st.session_state.get(key_of(name)) not in options:
        st.session_state[key_of(name)] = options[0]
    return str(st.session_state[key_of(name)])


def _offered_settings(strategy: Mapping[str, Any], device: str) -> list[str]:
    return [s["name"] for s in strategy["settings"] if not run_form.reason_against(s, device)]


def _unusual_settings(catalog: Mapping[str, Any], device: str) -> dict[str, list[str]]:
    """What is chosen where it differs from the usual; another device offers others, so choices begin anew there."""
    state, unusual = st.session_state, {}
    is_new_device = state.get("opt_settings_device") != device
    state["opt_settings_device"] = device
    for strategy in catalog["strategies"]:
        key, usual = key_of(f"settings_{strategy['name']}"), run_form.usual_settings(strategy, device)
        if is_new_device or key not in state:
            state[key] = usual
        offered = _offered_settings(strategy, device)
        state[key] = chosen = [name for name in state[key] if name in offered]
        if set(chosen) != set(usual):
            unusual[strategy["name"]] = chosen
    return unusual


def _select(name: str, label: str, titles: Mapping[str, str]) -> None:
    _widget(st.selectbox, name, label, list(titles), format_func=lambda option: titles.get(option, option))


def _widget(widget: Any, name: str, label: str, *args: Any, **options: Any) -> None:
    widget(label, *args, key=key_of(name), persist_state="session", **options)


def _setting_line(setting: Mapping[str, Any], device: str) -> str:
    text = f"{plain(setting['name'], 60)}: {plain(setting.get('sentence'))}"
    if reason := run_form.reason_against(setting, device):
        return f"- :gray[{text}. Not on this machine: {plain(reason)}]"
    if setting.get("on_request"):
        return f"- {text} *Tried only when chosen: {plain(setting['on_request'])}*"
    return f"- {text}"


def _claims(claimed: Any) -> str:
    if not isinstance(claimed, Mapping):
        return ""
    numbers = {name: value for name, value in claimed.items() if is_number(value)}
    texts = {n: percent(v, digits=0) if n == "accuracy" else f"{v:.1f}{TIMES}" for n, v in numbers.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())
