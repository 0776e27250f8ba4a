"""What each request over the socket means: one method per operation, named as the client names it.

Answers are plain JSON values, queries are Arrow. Values from outside are checked here or in the function they go to;
nothing that a client sends names a program or SQL, and only `bring_model` names files, which the hub does not open.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.adaptive.recommend import recommend
from hybrid_core.errors import HubUnavailable, InvalidInput
from hybrid_core.handover import recipe_code, recipe_json
from hybrid_core.records import Recipe, RunState, Subject, to_json
from storage.connection import Database
from storage.ensembles import forget_conflict
from storage.queries import run_query
from storage.recommendations import load_recommendations, store_recommendations
from storage.runs import create_run, open_runs, request_cancel
from workers.exports import ExportKeeper
from workers.offer import Offer
from workers.paths import DataPaths
from workers.repeated import repeated_subject
from workers.submission import find_device, find_model

# Below this a run is refused: its spool, compiler caches and the database could not be written to the end.
MIN_FREE_BYTES = 200 << 20
MAX_TEXT = 200


class Answers:
    """The hub's side of every operation; called from many threads at once."""

    def __init__(
        self,
        db: Database,
        paths: DataPaths,
        offer: Offer,
        banner: Callable[[], list[str]],
        wake: Callable[[], None],
        stop: Callable[[], None],
        exports: ExportKeeper,
    ) -> None:
        self._db, self._paths, self._offer, self._exports = db, paths, offer, exports
        self._banner, self._wake, self._stop = banner, wake, stop
        self._started_at = time.time()
        self._operations: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "ping": lambda _: "pong",
            "submit": self.submit,
            "cancel": self.cancel,
            "catalog": lambda _: self._offer.catalog(),
            "bring_model": lambda request: self.bring_model(request),
            "forget_model": lambda request: self._offer.forget(_text(request, "name")),
            "forget_conflict": self.forget_conflict,
            "recommend": self.recommend,
            "handover": self.handover,
            "export": self.export,
            "export_state": lambda request: self._exports.state(_text(request, "run_id")),
            "status": lambda _: self.status(),
            "stop": lambda _: self.stop(),
        }

    def __call__(self, request: Mapping[str, Any]) -> tuple[Any, bytes | None]:
        """Answer one request.

        Raises:
            HybridError: the sentence for the one who asked.
        """
        operation = request.get("op")
        if operation == "query":
            return None, self.query(request)
        if not isinstance(operation, str) or operation not in self._operations:
            known = ", ".join(sorted([*self._operations, "query"]))
            raise InvalidInput(f"op={operation!r:.60} is unknown; use one of {known}")
        return self._operations[operation](request), None

    def submit(self, request: Mapping[str, Any]) -> str:
        """Queue a run and return its id."""
        checked = self._offer.check(request.get("config"))
        if (refusal := self.disk_problem()) is not None:
            raise HubUnavailable(f"no run can be started: {refusal}")
        subject = repeated_subject(self._db, checked) if checked.config.repeats else checked.subject
        run_id = create_run(
            self._db, to_json(checked.config), to_json(subject), _text(request, "token"), checked.family
        )
        self._wake()
        return run_id

    def bring_model(self, request: Mapping[str, Any]) -> str:
        """Have a model from this machine inspected and return its id; the same request again is the same model."""
        if (refusal := self.disk_problem()) is not None:
            raise HubUnavailable(f"no model can be brought in: {refusal}")
        return self._offer.bring(request)

    def forget_conflict(self, request: Mapping[str, Any]) -> str:
        """Let a combination that failed together be tried again."""
        recipe = forget_conflict(self._db, _text(request, "conflict_id"))
        return f"{recipe} may be tried again; if it fails again, that is remembered again."

    def cancel(self, request: Mapping[str, Any]) -> str:
        """Ask a run to stop, and say what that means now."""
        run_id = _text(request, "run_id")
        before = {run.run_id: run.state for run in open_runs(self._db)}.get(run_id)
        state = request_cancel(self._db, run_id)
        self._wake()
        if before is None:
            return f"Run {run_id} was over already: it is {state}."
        if state == RunState.RUNNING:
            return f"Run {run_id} is being cancelled; what it has measured is kept."
        return f"Run {run_id} was cancelled before it started."

    def query(self, request: Mapping[str, Any]) -> bytes:
        """One named query as an Arrow stream."""
        params = request.get("params") or {}
        if not isinstance(params, Mapping):
            raise InvalidInput(f"params={params!r:.60} is not allowed; give an object")
        table = run_query(self._db, _text(request, "name"), params)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    def recommend(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What was last worked out for this model, workload and device; works it out where nothing was."""
        catalog = self._offer.catalog()
        model = find_model(catalog, request.get("model"))
        device = find_device(catalog, request.get("device") or "cpu")["id"]
        workload = _text(request, "workload")
        stored = load_recommendations(self._db, model["name"], workload, device)
        return stored or self._work_out(model, workload, device)

    def refresh_recommendations(self) -> None:
        """Work out what to try next for every model, workload and device of the catalog."""
        catalog = self._offer.catalog_if_ready()
        if catalog is None:
            return
        for model in catalog["models"]:
            workloads = {w["name"] for size in model["sizes"] for w in model["workloads"][size]}
            for device in catalog["devices"]:
                for workload in ("", *sorted(workloads)):
                    found = self._work_out(model, workload, device["id"])
                    if found != load_recommendations(self._db, model["name"], workload, device["id"]):
                        store_recommendations(self._db, model["name"], workload, device["id"], found)

    def handover(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The winner of a finished run as JSON and as code."""
        run_id = _text(request, "run_id")
        rows = run_query(self._db, "run", {"run_id": run_id}).to_pylist()
        if not rows:
            raise InvalidInput(f"run {run_id!r:.60} does not exist; list the runs to see the ids")
        run = rows[0]
        if run["winner_key"] is None:
            raise InvalidInput(f"run {run_id} is {run['state']} and has no winner; choose a finished run")
        # As it was stored with the run: a model may have been forgotten since, or its name given to another.
        subject = Subject.from_json(json.loads(run["subject_json"]))
        recipe = Recipe.from_key(run["winner_key"])
        measurement = self._winner_measurement(run)
        facts = {"run_id": run_id, **to_json(subject), "ended_at": run["ended_at"], "method": run["method"]}
        environment = measurement.get("environment", {}) if measurement else {}
        return {
            "recipe_json": json.dumps(recipe_json(facts, recipe, measurement or {}, environment), indent=2),
            "code": recipe_code(subject, recipe, measurement),
        }

    def export(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Have the winner of a finished run made into a folder to download; where it stands now."""
        if (refusal := self.disk_problem()) is not None:
            raise HubUnavailable(f"nothing can be exported: {refusal}")
        recipe = json.loads(self.handover(request)["recipe_json"])
        source = str(recipe["run"].get("source") or "")
        self._offer.refuse_code(source)
        # What a model of this kind needs was allowed at the machine itself, or the line above has refused it.
        return self._exports.ask(_text(request, "run_id"), recipe, allow_code=bool(source))

    def status(self) -> dict[str, Any]:
        """Health in plain values; `banner` is empty when all is well."""
        runs = open_runs(self._db)
        disk = self.disk_problem()
        return {
            "data_folder": str(self._paths.root),
            "started_at": self._started_at,
            "uptime_s": time.time() - self._started_at,
            "catalog": self._offer.state,
            **self._offer.code(),
            "queued": sum(run.state == RunState.QUEUED for run in runs),
            "running": sum(run.state == RunState.RUNNING for run in runs),
            "read_only": disk is not None,
            "banner": " ".join(_sentence(text) for text in [*([disk] if disk else []), *self._banner()]),
            "log": str(self._paths.hub_log),
        }

    def stop(self) -> str:
        """End the hub; runs that work are cancelled, runs that wait are kept."""
        runs = open_runs(self._db)
        waiting = sum(run.state == RunState.QUEUED for run in runs)
        self._stop()
        kept = f" {waiting} waiting run(s) stay in the queue for the next start." if waiting else ""
        return f"The hub ends; {len(runs) - waiting} running run(s) are cancelled.{kept}"

    def disk_problem(self) -> str | None:
        """Why nothing new may be written, None when there is room."""
        free = shutil.disk_usage(self._paths.root).free
        if free >= MIN_FREE_BYTES:
            return None
        needed = MIN_FREE_BYTES >> 20
        return f"read-only: {free >> 20} MB are free beside {self._paths.root}, {needed} are needed; free space"

    def _work_out(self, model: Mapping[str, Any], workload: str, device: str) -> list[dict[str, Any]]:
        rows = run_query(self._db, "history", {"family": model["family"]}).to_pylist()
        found = recommend([HistoryRow.from_row(r) for r in rows], model["family"], workload=workload, device=device)
        return [{**to_json(item), "key": item.recipe.key} for item in found]

    def _winner_measurement(self, run: Mapping[str, Any]) -> dict[str, Any] | None:
        trial_id = json.loads(run["result_json"] or "{}").get("winner_trial_id")
        rows = run_query(self._db, "trial", {"trial_id": trial_id}).to_pylist() if trial_id else []
        text = rows[0]["measurement_json"] if rows else None
        return dict(json.loads(text)) if text else None


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _text(request: Mapping[str, Any], name: str) -> str:
    value = request.get(name) or ""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise InvalidInput(f"{name}={value!r:.60} is not allowed; use text of at most {MAX_TEXT} characters")
    return value
