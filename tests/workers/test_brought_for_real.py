"""A folder that transformers saved goes through the real inspection and measurement; a changed one does not."""

import json

import pytest

from hybrid_core.records import MeasureLimits, MeasureRequest, Purpose, Recipe, Subject
from workers.engines.local import LocalEngine
from workers.supervisor import Programs

transformers = pytest.importorskip("transformers", reason="requirements-hf.txt installs it")
LIMITS = MeasureLimits(min_pairs=4, max_pairs=4, max_timed_s=1.0, quality_samples=2)


@pytest.fixture
def folder(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "my-llama")
    return tmp_path / "my-llama"


@pytest.mark.slow
def test_a_saved_llama_is_brought_in_measured_and_refused_once_it_has_changed(folder, paths, monkeypatch, request):
    monkeypatch.setenv("REAL_INSPECTION", "1")
    hub = request.getfixturevalue("hub")
    hub.client.bring_model("huggingface", str(folder), "mine")
    row = hub.wait_for(lambda: (row := hub.brought("mine"))["state"] != "checking" and row, 120)
    assert row["state"] == "ready", row["reason"]
    model = next(m for m in hub.client.catalog()["models"] if m["name"] == "mine")
    (size,) = model["sizes"]
    counted = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_pretrained(folder).parameters())
    assert model["facts"][size]["parameters"] == counted and model["facts"][size]["fits"]["cpu"]["fits"]

    run_id = hub.submit(model="mine", size=size, budget_s=60)
    baseline = hub.wait_for(lambda: hub.client.query("trials", run_id=run_id), 120)[0]
    hub.client.cancel(run_id)
    assert baseline["outcome"] == "ok", baseline["reason"]
    subject = Subject.from_json(json.loads(hub.run(run_id)["subject_json"]))

    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    engine = LocalEngine(Programs().measure, paths.cache / "again", paths.logs / "again.log")
    trial = engine.measure(MeasureRequest("t:baseline:baseline", "t", subject, Recipe(), Purpose.BASELINE, LIMITS))
    assert trial.outcome == "invalid_input" and "changed since it was brought in" in trial.reason
