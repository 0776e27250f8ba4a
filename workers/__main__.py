"""`python -m workers`: everything the pages can do, without a browser.

Results go to standard output, progress and complaints to standard error. Exit codes: 0 done, 1 the run ended without
a result, 2 something in the request is not allowed, 3 the hub cannot be reached, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any, NoReturn

from hybrid_core.config import OBJECTIVES, RunConfig
from hybrid_core.errors import HubUnavailable, InvalidInput
from hybrid_core.records import SEARCH_METHODS, SELECTION_METHODS, RunState
from workers import conflict_commands, dashboard, export_command, model_commands, repeat_command, terminal
from workers.client import Client, ensure_hub
from workers.paths import data_paths

EXIT_NO_RESULT, EXIT_INVALID, EXIT_NO_HUB, EXIT_INTERRUPTED = 1, 2, 3, 130
STOP_TIMEOUT_S = 30.0
# command line name -> key of the configuration's options
OPTION_KEYS = {
    "search_method": "search_method",
    "min_accuracy": "min_accuracy_preservation",
    "min_speed": "min_speed_improvement",
    "candidates": "num_candidates",
    "iterations": "max_iterations",
}


class OneSentenceParser(argparse.ArgumentParser):
    """Refuses with one sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave."""
        self.exit(EXIT_INVALID, f"{message}; see {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code of the process."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.act(options))
    except InvalidInput as error:
        print(error, file=sys.stderr)
        return EXIT_INVALID
    except HubUnavailable as error:
        print(error, file=sys.stderr)
        return EXIT_NO_HUB
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, say) has seen enough
        sys.stderr.close()
        return 0


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = OneSentenceParser(prog="python -m workers", description="Find the fastest recipe that stays accurate.")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=OneSentenceParser)
    _add_optimize(commands.add_parser("optimize", help="search for the best recipe of a model and measure it"))
    status = commands.add_parser("status", help="what the hub does, or how a run stands")
    status.add_argument("run", nargs="?", help="a run's id")
    status.set_defaults(act=show_status)
    cancel = commands.add_parser("cancel", help="end a run; what it measured is kept")
    cancel.add_argument("run", help="a run's id")
    cancel.set_defaults(act=cancel_run)
    export_command.add_commands(commands)
    repeat_command.add_commands(commands)
    model_commands.add_commands(commands)
    conflict_commands.add_commands(commands)
    hub = commands.add_parser("hub", help="start the hub if none runs")
    hub.set_defaults(act=start_hub)
    commands.add_parser("stop", help="end dashboard, runs and hub").set_defaults(act=stop)
    serve = commands.add_parser("dashboard", help="start hub and dashboard")
    serve.add_argument("--port", type=int, default=8501)
    serve.set_defaults(act=serve_dashboard)
    for starter in (hub, serve):
        text = "let models be Python code of the packages in allowed_packages.txt of the data folder"
        starter.add_argument("--allow-code", action="store_true", help=text)
    return parser


def _add_optimize(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(act=optimize)
    parser.add_argument("--model", required=True, help="a name that the command models lists")
    parser.add_argument("--size", default="tiny", help="a size of the model (tiny)")
    parser.add_argument("--workload", default="", help="a workload of the model (its first)")
    parser.add_argument("--device", default="cpu", help="where to measure (cpu)")
    parser.add_argument("--threads", type=int, default=0, help="threads of a measurement (the device's default)")
    parser.add_argument("--strategies", help="comma-separated names (all)")
    parser.add_argument(
        "--settings",
        help="what to try of a strategy, for example quantization=int8_dynamic,bfloat16 (semicolons between "
        "strategies; each one's usual settings)",
    )
    parser.add_argument("--method", help=f"{', '.join(SELECTION_METHODS)}: how parents are chosen (rl)")
    parser.add_argument(
        "--search-method",
        help=f"{', '.join(SEARCH_METHODS)}: how recipes are proposed; --method has a say in the first two (adaptive)",
    )
    parser.add_argument("--weights", help="speed=0.4,memory=0.3,accuracy=0.3")
    parser.add_argument("--min-accuracy", type=float, help="share of the accuracy a winner must keep (0.98)")
    parser.add_argument("--min-speed", type=float, help="speed a winner must reach (1.0); lower it to trade for memory")
    parser.add_argument("--candidates", type=int, help="recipes per iteration (5)")
    parser.add_argument("--iterations", type=int, help="iterations at most (10)")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for the whole search (300)")
    parser.add_argument("--options", help='further documented keys as JSON, for example {"enable_orz": false}')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="", help="a remark kept with the run")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def optimize(options: argparse.Namespace) -> int:
    """Submit a run, show it, print what it found."""
    config = run_config(options)
    RunConfig.from_json(config)  # refuse what is plainly wrong before a hub is started for it
    client = ensure_hub()
    run_id = client.submit(config)
    print(f"run {run_id} on {options.device}; Ctrl-C cancels it", file=sys.stderr)
    try:
        terminal.follow(client, run_id, sys.stderr)
        interrupted = False
    except KeyboardInterrupt:
        interrupted = True
        print(f"\n{client.cancel(run_id)}", file=sys.stderr)
        wait_until_over(client, run_id)
    run, trials = client.query("run", run_id=run_id)[0], client.query("trials", run_id=run_id)
    if options.json:
        print(json.dumps(terminal.report(run, trials), allow_nan=False))
    else:
        print(terminal.table(trials), terminal.summary(run), sep="\n\n")
    if run["state"] == RunState.FINISHED:
        return 0
    print(f"run {run_id} is {run['state']}: {run['cause']}", file=sys.stderr)
    return EXIT_INTERRUPTED if interrupted else EXIT_NO_RESULT


def run_config(options: argparse.Namespace) -> dict[str, Any]:
    """The run as the hub wants it, from the command line's options."""
    chosen = parse_options(options.options)
    chosen |= {key: getattr(options, name) for name, key in OPTION_KEYS.items() if getattr(options, name) is not None}
    if options.strategies is not None:
        chosen["optimization_strategies"] = [name.strip() for name in options.strategies.split(",") if name.strip()]
    if options.settings is not None:
        chosen["strategy_settings"] = parse_settings(options.settings)
    if options.weights is not None:
        chosen["objective_weights"] = parse_weights(options.weights)
    if options.method is not None:
        chosen["enable_rl_optimization"] = options.method == "rl"
        chosen["selection_strategy"] = options.method
    names = ("model", "size", "workload", "device", "threads", "seed", "note")
    return {**{name: getattr(options, name) for name in names}, "budget_s": options.budget, "options": chosen}


def parse_options(text: str | None) -> dict[str, Any]:
    """The keys of `--options`; whether each is allowed is the configuration's question.

    Raises:
        InvalidInput: the text is no JSON object.
    """
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidInput(f"--options={text!r:.60} is not allowed; give one JSON object of documented keys")
    return found


def parse_settings(text: str) -> dict[str, list[str]]:
    """`quantization=int8_dynamic,bfloat16;kernel_fusion=fold` as lists of names per strategy.

    Raises:
        InvalidInput: the text has another form, or names a strategy twice.
    """
    settings: dict[str, list[str]] = {}
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        strategy, separator, names = (piece.strip() for piece in part.partition("="))
        if not separator or "=" in names or strategy in settings:
            example = "quantization=int8_dynamic,bfloat16;kernel_fusion=fold"
            raise InvalidInput(f"--settings {text!r:.60} cannot be read; write for example {example}")
        settings[strategy] = [name.strip() for name in names.split(",") if name.strip()]
    return settings


def parse_weights(text: str) -> dict[str, float]:
    """`speed=0.5,memory=0.2,accuracy=0.3` as numbers; what is not named counts 0."""
    weights = {}
    for part in text.split(","):
        name, separator, value = (piece.strip() for piece in part.partition("="))
        try:
            weights[name] = float(value)
        except ValueError:
            separator = ""
        if not separator:
            example = ",".join(f"{objective}=0.3" for objective in OBJECTIVES)
            raise InvalidInput(f"--weights {text!r:.60} cannot be read; write for example {example}")
    return weights


def wait_until_over(client: Client, run_id: str, timeout_s: float = 15.0) -> None:
    """Wait until the run has a terminal state, but not for ever."""
    deadline = time.monotonic() + timeout_s
    while client.query("run", run_id=run_id)[0]["ended_at"] is None and time.monotonic() < deadline:
        time.sleep(0.2)


def show_status(options: argparse.Namespace) -> int:
    """The hub's health and latest runs, or one run with its trials; starts no hub."""
    client = existing_hub()
    if options.run:
        rows = client.query("run", run_id=options.run)
        if not rows:
            raise InvalidInput(f"run {options.run!r:.60} does not exist; `python -m workers status` lists the runs")
        print(terminal.summary(rows[0]), terminal.table(client.query("trials", run_id=options.run)), sep="\n\n")
        return 0
    status = client.status()
    print(f"hub: {status['running']} running, {status['queued']} waiting, catalog {status['catalog']}")
    print(f"data folder: {status['data_folder']}")
    if status["banner"]:
        print(status["banner"])
    for run in client.query("runs", limit=10):
        print(f"{run['run_id']}  {run['state']:9}  {run['model']} {run['workload_label']}  {run['winner_key'] or ''}")
    return 0


def cancel_run(options: argparse.Namespace) -> int:
    """Cancel a run."""
    print(existing_hub().cancel(options.run))
    return 0


def start_hub(options: argparse.Namespace) -> int:
    """Make sure that a hub runs."""
    status = ensure_hub(allow_code=options.allow_code).status()
    print(f"The hub serves {status['data_folder']}; its log is {status['log']}")
    if status["allow_code"]:
        listed = ", ".join(status["allowed_packages"]) or "none"
        print(f"Models may be Python code of these packages: {listed}")
    return 0


def serve_dashboard(options: argparse.Namespace) -> int:
    """Run hub and dashboard."""
    return dashboard.serve(options.port, lambda text: print(text, flush=True), allow_code=options.allow_code)


def stop(_: argparse.Namespace) -> int:
    """End dashboard, runs and hub, and wait until the hub is gone."""
    print(dashboard.stop())
    client = Client(data_paths())
    if not client.is_reachable():
        print("No hub was running.")
        return 0
    print(client.stop())
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while client.is_reachable():
        if time.monotonic() > deadline:
            raise HubUnavailable(f"the hub did not end within {STOP_TIMEOUT_S:.0f} s; see {client.paths.hub_log}")
        time.sleep(0.1)
    return 0


def existing_hub() -> Client:
    """A client of the hub that runs now.

    Raises:
        HubUnavailable: none does.
    """
    client = Client(data_paths())
    if not client.is_reachable():
        raise HubUnavailable(f"no hub serves {client.paths.root}; start it with `python -m workers hub`")
    return client


if __name__ == "__main__":
    sys.exit(main())
