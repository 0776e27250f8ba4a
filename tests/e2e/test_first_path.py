"""The whole path a newcomer takes, in a real browser: open, choose, start, watch, open the result, take it away."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is in requirements-dev.txt; 'make test' installs it")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

from .conftest import ROOT, Installation  # noqa: E402

pytestmark = pytest.mark.browser
BUDGET_S = 40


def choose(page: Page, label: str, option: str) -> None:
    box = page.get_by_role("combobox", name=label)
    box.click()
    page.get_by_role("option", name=option).click()
    expect(box).to_have_value(option)


def copied(page: Page, block: Any) -> str:
    """What the block's own copy button puts on the clipboard."""
    block.hover()
    block.get_by_role("button", name="Copy to clipboard").click()
    return str(page.evaluate("() => navigator.clipboard.readText()"))


def run_pasted(code: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    script = folder / "pasted.py"
    script.write_text(code)
    env = {**env, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, script], env=env, cwd=folder, capture_output=True, text=True, check=False)


def test_a_newcomer_optimizes_a_model_and_takes_the_recipe_home(
    browser: Browser, installation: Installation, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(30_000)
    hosts: set[str | None] = set()
    page.on("request", lambda request: hosts.add(urlparse(request.url).hostname))

    # open
    page.goto(installation.address)
    expect(page.get_by_role("heading", name="Hybrid Optimization")).to_be_visible()
    page.get_by_role("link", name="Optimize").first.click()
    expect(page.get_by_role("heading", name="Optimize", exact=True)).to_be_visible()

    # choose
    choose(page, "Model", "Residual network")
    page.get_by_text("Tournament", exact=True).click()
    budget = page.get_by_label("Time budget (s)")
    budget.fill(str(BUDGET_S))
    budget.press("Enter")
    page.get_by_text("The same as JSON and as a command").click()
    expect(page.locator("[data-testid=stCode]").first).to_contain_text(f'"budget_s": {BUDGET_S}')

    # start, with the double click of an impatient person
    page.get_by_role("button", name="Start the search").dblclick()
    expect(page.get_by_role("heading", name="Live", exact=True)).to_be_visible()
    run_id = page.url.split("run=")[1].split("&")[0]

    # a candidate arrives while the run is running
    landed = page.locator("[data-testid=stMetric]").filter(has_text="Candidates")
    expect(landed).to_contain_text(re.compile(r"[1-9]"), timeout=90_000)
    expect(page.get_by_role("button", name=re.compile("Cancel"))).to_be_visible()

    # the finished run
    expect(page.get_by_text("This run is over.")).to_be_visible(timeout=180_000)
    page.get_by_role("link", name="See the result").click()
    expect(page.get_by_role("heading", name="Result", exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name="Take it away")).to_be_visible()

    # the copied code runs as pasted, the copied recipe is the one it applies
    blocks = page.locator("[data-testid=stCode]")
    code = copied(page, blocks.filter(has_text="apply_recipe").first)
    page.get_by_role("tab", name="Recipe (JSON)").click()
    recipe = json.loads(copied(page, blocks.filter(has_text='"recipe"').first))
    done = run_pasted(code, tmp_path, installation.env)
    assert done.returncode == 0, done.stderr
    assert "optimized is ready" in done.stdout
    assert str(recipe["recipe"]) in done.stdout or not recipe["recipe"]

    # how it was searched: every candidate has a proposer
    page.goto(f"{installation.address}/learning?run={run_id}")
    expect(page.get_by_role("heading", name="Learning", exact=True)).to_be_visible()
    expect(page.get_by_text("Searched by Adaptive")).to_be_visible()
    # A crowded machine measures nothing but the untouched model in so little time; then the page says that.
    if any(event["kind"] == "proposals" for event in installation.events(run_id)):
        expect(page.get_by_role("heading", name="Who proposed what, and what came of it")).to_be_visible()
        expect(page.locator("[data-testid=stDataFrame]").first).to_be_visible()
    else:
        expect(page.get_by_text("This run ended before the search had anything to choose from")).to_be_visible()
    assert page.locator("[data-testid=stException]").count() == 0

    # one run in spite of two clicks, and nothing was fetched from elsewhere
    listed = [run for run in installation.runs() if run["model"] == "convnet"]
    assert [run["run_id"] for run in listed] == [run_id]
    assert listed[0]["state"] == "finished"
    assert hosts <= {"127.0.0.1", None, ""}
    context.close()


PAGES = (
    "",
    "optimize",
    "live",
    "run",
    "learning",
    "leaderboard",
    "devices",
    "models",
    "models?model=no-such-model",
    "run?run=no-such-run",
    "learning?run=no-such-run",
    "live?run=%3Cscript%3E",
    "optimize?model=%00&size=../",
)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_without_a_trace(browser: Browser, installation: Installation, path: str) -> None:
    page = browser.new_page()
    page.goto(f"{installation.address}/{path}")
    expect(page.locator("[data-testid=stHeading] h1").first).to_be_visible(timeout=30_000)
    expect(page.locator("[data-test-script-state=notRunning]").first).to_be_attached(timeout=30_000)
    text = page.locator("body").inner_text()
    assert "Traceback" not in text
    assert "Page not found" not in text
    assert page.locator("[data-testid=stException]").count() == 0
    page.close()


def test_a_second_start_finds_the_first(installation: Installation) -> None:
    done = installation.run("dashboard", "--port", "8999")
    assert done.returncode == 0
    assert f"already running: {installation.address}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nope"], "nope"),
        (["--model", "convnet", "--budget", "0"], "budget_s=0"),
        (["--model", "convnet", "--candidates", "0"], "num_candidates=0"),
        (["--model", "convnet", "--weights", "speed=0,memory=0,accuracy=0"], "all zero"),
        (["--model", "convnet", "--weights", "speed=nan"], "objective_weights"),
        (["--model", "convnet", "--weights", "speed=-1"], "objective_weights"),
        (["--model", "convnet", "--strategies", "magic"], "magic"),
        (["--model", "convnet", "--size", "huge"], "huge"),
        (["--model", "convnet", "--workload", "prefill"], "prefill"),
        (["--model", "convnet", "--device", "tpu"], "tpu"),
    ],
)
def test_bad_input_is_one_sentence_and_starts_nothing(
    installation: Installation, arguments: list[str], sentence: str
) -> None:
    before = [run["run_id"] for run in installation.runs()]
    done = installation.run("optimize", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert [run["run_id"] for run in installation.runs()] == before
