"""Whether every model of the registry goes through a whole run that a person starts in the browser.

Question: does a click on "Start the search" end, for each entry, in a finished run with a raced winner or an honest
"nothing beat it"?

Method: a dashboard of its own in an empty data folder, a real headless Chromium, one run after the other; each run is
started by the button of the form and watched until the page says it is over. Figures are those of the final race, each
a ratio measured beside the untouched model. One run per model, so the recipes are examples and not a ranking.

    make bench-every-model            120 s for each model
    make bench-every-model QUICK=1    30 s for each model
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402

from workers.client import Client  # noqa: E402
from workers.paths import DataPaths  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "every-model.json"
RATIOS = ("speed", "memory", "accuracy")
BROWSER = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking")


def main() -> None:
    """Run, print, and write the results file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 s for each model")
    parser.add_argument("--budget", type=int, default=120, help="seconds per run")
    parser.add_argument("--models", nargs="*", help="only these entries")
    parser.add_argument("--port", type=int, default=8597)
    chosen = parser.parse_args()
    budget_s = 30 if chosen.quick else chosen.budget
    with tempfile.TemporaryDirectory(prefix="hybrid-bench-") as data_dir:
        found = run_all(Path(data_dir), budget_s, chosen.models, chosen.port)
    finished = sum(row["state"] == "finished" for row in found["rows"]) / len(found["rows"])
    found["targets"] = [
        {"name": "share of models whose run finished", "value": finished, "target": 1.0, "met": finished == 1.0}
    ]
    print(f"share of models whose run finished: {finished:.2f} (target 1.00)")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1))
    print(f"written to {RESULTS.relative_to(ROOT)}")


def run_all(data_dir: Path, budget_s: int, models: list[str] | None, port: int) -> dict[str, Any]:
    """Start a dashboard, send every model through it, and stop it."""
    env = {**os.environ, "HYBRID_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "workers"]
    dashboard = subprocess.Popen(
        [*command, "dashboard", "--port", str(port)], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert dashboard.stdout is not None
        address = re.findall(r"http://\S+", dashboard.stdout.readline())[0]
        client = Client(DataPaths(data_dir))
        catalog = client.catalog()
        names = models or [model["name"] for model in catalog["models"]]
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(BROWSER))
            page = chromium.new_page(viewport={"width": 1280, "height": 1000})
            rows = [print_row(send(page, client, address, name, budget_s)) for name in names]
            chromium.close()
        environment = {**catalog["environment"], "devices": catalog["devices"], "budget_s": budget_s}
        return {"environment": environment, "rows": rows}
    finally:
        subprocess.run([*command, "stop"], cwd=ROOT, env=env, check=False, capture_output=True)
        dashboard.wait(timeout=60)


def send(page: Page, client: Client, address: str, model: str, budget_s: int) -> dict[str, Any]:
    """Fill the form by its address, press the button, wait until the page says that the run is over."""
    page.goto(f"{address}/optimize?model={model}&budget_s={budget_s}&method=tournament")
    button = page.get_by_role("button", name="Start the search")
    expect(button).to_be_enabled(timeout=60_000)
    button.click()
    expect(page.get_by_role("heading", name="Live", exact=True)).to_be_visible(timeout=60_000)
    expect(page.get_by_text("This run is over.")).to_be_visible(timeout=(budget_s + 240) * 1000)
    run = next(run for run in client.query("runs") if run["model"] == model)
    trials = client.query("trials", run_id=run["run_id"])
    return {
        "model": model,
        "state": run["state"],
        "sentence": run["cause"],
        "workload": run["workload_label"],
        "winner": run["winner_key"],
        **{name: {"value": run[name], "low": run[f"{name}_low"], "high": run[f"{name}_high"]} for name in RATIOS},
        "trials": [{key: t[key] for key in ("recipe_key", "purpose", "outcome", "reason")} for t in trials],
    }


def print_row(row: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    figures = ", ".join(f"{name} {shown(row[name])}" for name in RATIOS)
    print(f"{row['model']:14} {row['state']:9} {len(row['trials']):>3} trials  {row['winner']}: {figures}", flush=True)
    return row


def shown(estimate: dict[str, float | None]) -> str:
    """A ratio with its interval; a run without a winner has none."""
    if estimate["value"] is None:
        return "none"
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


if __name__ == "__main__":
    main()
