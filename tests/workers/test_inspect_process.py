"""The inspection as the hub sees it: one JSON answer on standard output, whatever is brought and whatever it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from hybrid_core.models.registry import find_entry
from workers.brought_answer import read_inspection
from workers.inspect_process import MAX_REQUEST_BYTES, answer_request

ROOT = Path(__file__).parents[2]
REQUEST = {"kind": "huggingface", "name": "small", "labels": "", "allowed_packages": []}


def ask(
    request: Any, cwd: Path = ROOT, **environment: str
) -> tuple[dict[str, Any], subprocess.CompletedProcess[bytes]]:
    raw = request if isinstance(request, bytes) else json.dumps(request).encode()
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "workers.inspect_process"],
        input=raw,
        capture_output=True,
        cwd=ROOT,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )
    return json.loads(done.stdout), done


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    folder = tmp_path_factory.mktemp("models") / "small llama"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_folder_is_described_as_the_catalog_describes_models(llama: Path) -> None:
    answer, done = ask({**REQUEST, "path": str(llama)})
    assert answer["ok"] is True and done.returncode == 0, answer
    model = answer["model"]
    assert {"name", "family", "title", "description", "sizes", "workloads", "facts", "source", "brought"} == set(model)
    assert model["brought"] is True and model["sizes"] == ["own"]
    assert [w["name"] for w in model["workloads"]["own"]] == ["prefill", "decode"]
    tables, attention, rest = 2 * 40 * 16, 2 * 16 * 16 + 2 * 16 * 8, 3 * 16 * 24 + 3 * 16
    assert model["facts"]["own"]["parameters"] == tables + attention + rest
    source, description = read_inspection(done.stdout, "small", "huggingface", 0)
    assert description["workloads"] == model["workloads"]
    assert find_entry("small", source).facts("own")["parameters"] == model["facts"]["own"]["parameters"]


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (b"", "the request cannot be read as JSON"),
        (b"not json", "the request cannot be read as JSON"),
        (b"[1]", "object"),
        (b"\xff\xfe", "JSON"),
        ({"kind": "huggingface", "path": "/no/such/folder", "name": "a"}, "does not exist"),
        ({"kind": "factory", "path": "json:loads", "name": "a", "allowed_packages": []}, "--allow-code"),
        ({"kind": "exported", "path": str(ROOT / "README.md"), "name": "a"}, "not a .pt2 file"),
        (b" " * (MAX_REQUEST_BYTES + 1), "more than"),
    ],
)
def test_what_cannot_be_brought_in_is_one_sentence(request_: Any, told: str) -> None:
    answer = answer_request(request_ if isinstance(request_, bytes) else json.dumps(request_).encode())
    assert answer["ok"] is False and told in answer["reason"]
    assert "\n" not in answer["reason"] and "Traceback" not in answer["reason"]


def test_a_fault_of_our_own_is_a_sentence_for_the_user_and_a_trace_for_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(raw: bytes) -> dict[str, Any]:
        raise ZeroDivisionError("first\nsecond")

    monkeypatch.setattr("workers.inspect_process.inspect_model", fail)
    answer = answer_request(b"{}")
    assert answer == {"ok": False, "reason": "the model could not be inspected (ZeroDivisionError: first)"}
    assert "Traceback" in capsys.readouterr().err


def test_code_that_prints_cannot_disturb_the_answer(tmp_path: Path) -> None:
    package = tmp_path / "noisy"
    package.mkdir()
    (package / "__init__.py").write_text("print('{\"ok\": true}')\n")
    (package / "net.py").write_text(
        "import os, torch\nos.write(1, b'garbage')\ndef good():\n    print('more')\n    return torch.nn.Linear(3, 2)\n"
    )
    request = {"kind": "factory", "name": "noisy", "allowed_packages": ["noisy"]}
    answer, done = ask({**request, "path": "noisy.net:good"}, PYTHONPATH=str(tmp_path))
    assert answer["ok"] is True and answer["model"]["facts"]["own"]["parameters"] == 8
    assert b"garbage" in done.stderr
