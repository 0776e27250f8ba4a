"""Folders that transformers saved, brought in by the page and optimized from it, in a real browser."""

import re
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is in requirements-dev.txt; 'make test' installs it")
transformers = pytest.importorskip("transformers", reason="transformers is in requirements-dev.txt")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

from workers.client import Client  # noqa: E402
from workers.paths import DataPaths  # noqa: E402

from .conftest import Installation  # noqa: E402

pytestmark = pytest.mark.browser
# Enough for a candidate and the race after it where one measurement takes half a minute.
BUDGET_S = 300
COMMON = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2}


def save_llama(folder: Path) -> None:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = transformers.LlamaConfig(**COMMON, **heads, tie_word_embeddings=False)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def save_bert(folder: Path) -> None:
    config = transformers.BertConfig(**COMMON, num_attention_heads=4, max_position_embeddings=256)
    transformers.BertModel(config).save_pretrained(folder)


def bring_in(page: Page, address: str, folder: Path, name: str) -> None:
    page.goto(f"{address}/models")
    for label, text in (("Full path on this machine", str(folder)), ("Name", name)):
        field = page.get_by_label(label, exact=True)
        field.fill(text)
        field.press("Tab")
    page.get_by_role("button", name="Bring it in").dblclick()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "save"), [("my-llama", save_llama), ("my-bert", save_bert)])
def test_a_saved_folder_is_brought_in_and_optimized(
    browser: Browser, installation: Installation, tmp_path: Path, name: str, save: object
) -> None:
    assert callable(save)
    save(tmp_path / name)
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(30_000)
    bring_in(page, installation.address, tmp_path / name, name)
    # Once it is ready the page shows its card, and the address names it.
    page.wait_for_url(re.compile(f"model={name}"), timeout=180_000)

    page.goto(
        f"{installation.address}/optimize?model={name}&budget_s={BUDGET_S}&method=tournament&strategies=quantization,memory_pooling"
    )
    button = page.get_by_role("button", name="Start the search")
    expect(button).to_be_enabled(timeout=60_000)
    button.click()
    expect(page.get_by_role("heading", name="Live", exact=True)).to_be_visible(timeout=60_000)
    expect(page.get_by_text("This run is over.")).to_be_visible(timeout=600_000)
    page.get_by_role("link", name="See the result").click()
    expect(page.get_by_role("heading", name="Take it away")).to_be_visible(timeout=60_000)
    assert "Traceback" not in page.locator("body").inner_text()
    page.close()

    (run,) = [run for run in installation.runs() if run["model"] == name]
    trials = Client(DataPaths(installation.data_dir)).query("trials", run_id=run["run_id"])
    measured = [t for t in trials if t["outcome"] == "ok" and t["recipe_key"] != "baseline"]
    assert run["state"] == "finished", run["cause"]
    assert measured, [(t["recipe_key"], t["outcome"], t["reason"]) for t in trials]


def test_a_folder_with_a_pickle_is_refused_by_name(
    browser: Browser, installation: Installation, tmp_path: Path
) -> None:
    save_llama(tmp_path / "hostile")
    (tmp_path / "hostile" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    page = browser.new_page()
    page.set_default_timeout(30_000)
    bring_in(page, installation.address, tmp_path / "hostile", "hostile")
    expect(page.get_by_text("Not usable:")).to_be_visible(timeout=180_000)
    expect(page.get_by_text(re.compile("pytorch_model.bin")).first).to_be_visible(timeout=60_000)
    assert "hostile" not in {model["name"] for model in Client(DataPaths(installation.data_dir)).catalog()["models"]}
    page.close()
