"""What leaves a run: JSON that reads back, and code that runs in a fresh interpreter and cannot be hijacked."""

from __future__ import annotations

import ast
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.export.card import card_of
from hybrid_core.handover import recipe_code, recipe_from_json, recipe_json
from hybrid_core.models.brought.inspection import inspect
from hybrid_core.models.registry import get_entry
from hybrid_core.records import Recipe, Subject, Workload

ROOT = Path(__file__).resolve().parents[2]
CONVNET = Subject("convnet", "tiny", Workload("forward", "forward", 32))
BFLOAT16 = Recipe.from_dict({"quantization": "bfloat16"})
FACTS = {
    "speed_improvement": {"value": 1.25, "low": 1.2, "high": 1.3},
    "memory_efficiency": {"value": 1.9, "low": 1.9, "high": 1.9},
    "accuracy_preservation": {"value": 0.995, "low": 0.99, "high": 1.0},
    "peak_bytes": 1000,
    "baseline_peak_bytes": 1900,
    "max_abs_error": 0.05,
    "changes": ["cast 12 parameters"],
}
ENVIRONMENT = {"python": "3.11", "torch": "2.13.0", "device": "cpu", "cpu": "Some CPU"}


def run_code(code: str, *, pasted: bool = False) -> subprocess.CompletedProcess[str]:
    """Run in a fresh interpreter: as a file's text, or typed into the interactive prompt."""
    arguments = [sys.executable, "-i", "-q"] if pasted else [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        arguments, input=code if pasted else "", env=environment, capture_output=True, text=True, timeout=120
    )


def test_json_holds_recipe_figures_with_intervals_versions_and_device():
    data = recipe_json({"run_id": "r1", "model": "convnet"}, BFLOAT16, FACTS, ENVIRONMENT)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["recipe"] == {"quantization": "bfloat16"} and data["key"] == "quantization=bfloat16"
    assert data["figures"]["speed_improvement"] == {"value": 1.25, "low": 1.2, "high": 1.3}
    assert data["counts"] == {"peak_bytes": 1000, "baseline_peak_bytes": 1900, "max_abs_error": 0.05}
    assert data["versions"] == {"python": "3.11", "torch": "2.13.0"} and data["device"] == "cpu"
    assert data["run"]["run_id"] == "r1" and data["changes"] == ["cast 12 parameters"]


def test_json_reads_back_as_the_same_recipe_in_the_same_order():
    recipe = Recipe.from_dict({"quantization": "bfloat16", "attention_fusion": "sdpa"})
    data = json.loads(json.dumps(recipe_json({}, recipe, FACTS, ENVIRONMENT)))
    assert recipe_from_json(data) == recipe
    assert recipe_from_json(data["recipe"]) == recipe
    assert recipe_from_json(recipe_json({}, Recipe(), FACTS, {})) == Recipe()


def test_numbers_that_json_does_not_have_become_null():
    data = recipe_json({}, BFLOAT16, FACTS | {"max_abs_error": math.nan}, {})
    assert data["counts"]["max_abs_error"] is None
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize(
    "data",
    [
        {"format": "something else", "format_version": 1, "recipe": {}},
        {"format": "hybrid-optimization recipe", "format_version": 99, "recipe": {}},
        {"format": "hybrid-optimization recipe", "format_version": 1},
        {"quantization": 8},
        {"quantization": None},
    ],
)
def test_json_of_another_kind_is_refused(data):
    with pytest.raises(InvalidInput, match="give "):
        recipe_from_json(data)


def test_the_code_states_figures_subject_and_recipe_as_comments():
    comments = "\n".join(line for line in recipe_code(CONVNET, BFLOAT16, FACTS).splitlines() if line.startswith("#"))
    assert "quantization=bfloat16" in comments
    assert "convnet tiny, forward, batch 32, device cpu" in comments
    assert "speed_improvement: 1.250 (95 % interval 1.200 to 1.300)" in comments
    assert "peak bytes: 1000 (untouched 1900)" in comments


def test_the_code_and_the_card_name_the_variables_that_python_must_be_started_with():
    facts = FACTS | {"environment": {"start_variables": {"MALLOC_B": "2", "MALLOC_A": "1\nimport os"}}}
    code = recipe_code(CONVNET, BFLOAT16, facts)
    assert "# start Python with these in its environment: MALLOC_A=1\\nimport os MALLOC_B=2\n" in code
    assert "start Python" not in recipe_code(CONVNET, BFLOAT16, FACTS)
    data = recipe_json({"model": "convnet"}, BFLOAT16, facts, facts["environment"])
    card = card_of(data, (), {"tensors": {}}, ())
    assert "Start Python with MALLOC" in card and "come from another process" in card
    assert "Start Python" not in card_of(recipe_json({}, BFLOAT16, FACTS, ENVIRONMENT), (), {"tensors": {}}, ())


@pytest.mark.parametrize("pasted", [False, True], ids=["as a file", "pasted into a prompt"])
def test_the_code_runs_in_a_fresh_interpreter_and_prints_the_difference(pasted):
    done = run_code(recipe_code(CONVNET, BFLOAT16, FACTS | {"max_abs_error": 0.2}), pasted=pasted)
    assert "Error" not in done.stderr and done.returncode == 0
    assert "largest difference from the untouched model: " in done.stdout
    difference = float(done.stdout.split("untouched model: ")[1].split()[0])
    assert 0 < difference < 0.8
    assert "optimized is ready: {'quantization': 'bfloat16'}" in done.stdout


def test_the_code_of_a_recipe_of_several_steps_and_of_a_decode_runs():
    """A decode's call is more than `model(*inputs)`, and its attention was written out before it was fused."""
    workload = next(w for w in get_entry("llama").workloads("tiny") if w.kind == "decode")
    recipe = Recipe.from_dict({"attention_fusion": "sdpa", "kernel_fusion": "fold", "memory_pooling": "static_cache"})
    done = run_code(recipe_code(Subject("llama", "tiny", workload), recipe, FACTS | {"max_abs_error": 1e-5}))
    assert done.returncode == 0, done.stderr
    assert f"optimized is ready: {recipe.to_dict()}" in done.stdout


def test_the_code_of_a_model_that_somebody_brought_builds_that_model(tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    path = tmp_path / "it's mine.pt2"
    torch.export.save(torch.export.export(module, (torch.randn(4, 6),)), path)
    entry = inspect({"kind": "exported", "path": str(path), "name": "mine"})
    size = entry.sizes[0]
    subject = Subject("mine", size, entry.workloads(size)[0], source=entry.registration.to_text())
    code = recipe_code(subject, BFLOAT16, FACTS)
    done = run_code(code)
    assert done.returncode == 0 and "optimized is ready" in done.stdout, done.stderr
    path.write_bytes(path.read_bytes() + b" ")
    assert "changed since it was brought in" in run_code(code).stderr


def test_the_code_refuses_a_model_that_differs_more_than_what_was_measured():
    done = run_code(recipe_code(CONVNET, BFLOAT16, FACTS | {"max_abs_error": 1e-7}))
    assert done.returncode != 0
    assert "do not use it" in done.stderr and "ready" not in done.stdout


HOSTILE = [
    "convnet'); import os; os.abort() #",
    'a"""\nraise SystemExit("owned")\n"""',
    "x\nraise SystemExit('owned')",
    "x\r\nraise SystemExit('owned')",
    "line\u2028separator\x85next\x0c",
    "\\",
    "{__import__('os').abort()}",
    "\ud800",
    "",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_stay_data(name):
    """The parsed program is the same whatever the names are; only its constants differ."""
    subject = Subject(name, name, Workload(name, name, 1))
    code = recipe_code(subject, Recipe.from_dict({name: name}), FACTS)
    plain = recipe_code(Subject("m", "m", Workload("m", "m", 1)), Recipe.from_dict({"m": "m"}), FACTS)
    assert code.isascii()
    assert shape_of(code) == shape_of(plain)
    values = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert name in values


def shape_of(code: str) -> list[str]:
    return [type(node).__name__ for node in ast.walk(ast.parse(code))]


def test_a_run_without_a_measurement_says_so_instead_of_inventing_figures():
    code = recipe_code(CONVNET, BFLOAT16, None)
    ast.parse(code)
    assert "# figures: none were recorded" in code


def test_a_gpu_subject_builds_on_the_gpu():
    code = recipe_code(Subject("m", "tiny", CONVNET.workload, device="GPU-1234"), BFLOAT16, FACTS)
    assert "DEVICE = 'cuda'" in code


def test_handing_over_needs_no_torch():
    """The hub writes recipes and never loads torch."""
    code = "import sys, hybrid_core, hybrid_core.handover; raise SystemExit('torch' in sys.modules)"
    assert run_code(code).returncode == 0


def test_records_and_config_load_no_torch_and_exports_are_found_by_name():
    code = (
        "import sys, hybrid_core, hybrid_core.records, hybrid_core.config, hybrid_core.errors\n"
        "from hybrid_core import HybridOptimizationConfig\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'create_hybrid_optimization_core' in dir(hybrid_core)\n"
        "for name in hybrid_core.__all__: assert getattr(hybrid_core, name).__name__ == name, name\n"
        "assert 'torch' in sys.modules\n"
        "try: hybrid_core.nonsense\n"
        "except AttributeError as error: assert 'nonsense' in str(error) and 'apply_recipe' in str(error)\n"
    )
    done = run_code(code)
    assert done.returncode == 0, done.stderr
