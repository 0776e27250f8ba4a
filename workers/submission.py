"""Turns what a person submitted into a run that can be started, or into one sentence that says what is wrong.

The page and the command line check too, but only this check counts: it is made in the hub against the catalog of this
very machine, so that nothing is queued that could not be measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hybrid_core.config import RunConfig, choose_workload
from hybrid_core.errors import InvalidInput
from hybrid_core.records import Subject, Workload


class Submission(NamedTuple):
    """A checked request: the configuration, what exactly is measured, and the model's family."""

    config: RunConfig
    subject: Subject
    family: str


def check_submission(config: Any, catalog: Mapping[str, Any]) -> Submission:
    """Check a submitted configuration against the catalog.

    Raises:
        InvalidInput: one sentence that names the field, the value and what is allowed.
    """
    if not isinstance(config, Mapping):
        raise InvalidInput(f"config={config!r:.60} is not allowed; give an object of run keys")
    run = RunConfig.from_json(config)
    model = find_model(catalog, run.model)
    if run.size not in model["sizes"]:
        raise InvalidInput(f"size {run.size!r} of model {run.model} is unknown; choose one of {_list(model['sizes'])}")
    workloads = tuple(Workload.from_json(w) for w in model["workloads"][run.size])
    workload = choose_workload(workloads, run.workload)
    device = find_device(catalog, run.device)
    threads = run.threads or int(device["threads"])
    if threads > int(device["max_threads"]):
        raise InvalidInput(
            f"threads={threads} is not allowed; {run.device} has {device['max_threads']} cores to use, "
            "give at most that many or 0 for the default"
        )
    _check_settings(run, catalog)
    source = str(model.get("source") or "")
    subject = Subject(run.model, run.size, workload, run.device, threads, run.seed, source)
    return Submission(run, subject, str(model["family"]))


def find_model(catalog: Mapping[str, Any], name: Any) -> Mapping[str, Any]:
    """The catalog's model of that name; `InvalidInput` lists the known ones."""
    return _find(catalog["models"], "name", name, "model")


def find_device(catalog: Mapping[str, Any], name: Any) -> Mapping[str, Any]:
    """The catalog's device of that id; `InvalidInput` lists the known ones."""
    return _find(catalog["devices"], "id", name, "device")


def _find(rows: Sequence[Mapping[str, Any]], key: str, value: Any, what: str) -> Mapping[str, Any]:
    for row in rows:
        if row[key] == value:
            return row
    raise InvalidInput(f"{what} {value!r:.60} is unknown; choose one of {_list([row[key] for row in rows])}")


def _check_settings(run: RunConfig, catalog: Mapping[str, Any]) -> None:
    """Named settings must exist, and one of those to try must work here, else only the baseline could be measured."""
    reasons, offered = [], False
    for strategy in catalog["strategies"]:
        if strategy["name"] not in run.options.optimization_strategies:
            continue
        named = run.options.strategy_settings.get(strategy["name"], ())
        for name in named:
            _find(strategy["settings"], "name", name, f"setting of {strategy['name']}")
        for setting in strategy["settings"]:
            if named and setting["name"] not in named:
                continue
            reason = setting.get("unavailable_on", {}).get(run.device, setting["unavailable"])
            if reason is None and not named:
                reason = setting.get("on_request") or None
            if reason is None:
                offered = True
                continue
            reasons.append(f"{strategy['name']}={setting['name']}: {reason}")
    if offered:
        return
    chosen = _list(run.options.optimization_strategies)
    raise InvalidInput(
        f"no setting of {chosen} is available on {run.device} ({'; '.join(reasons) or 'the catalog has none'}); "
        "choose another strategy"
    )


def _list(names: Sequence[Any]) -> str:
    return ", ".join(str(name) for name in names)
