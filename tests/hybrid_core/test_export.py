"""A folder to take home: what is in it, that it loads and verifies in a fresh interpreter, and that it is only data."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from hybrid_core.application import apply_recipe
from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.evaluation import case_from_module, evaluate
from hybrid_core.export import export_folder, load_folder, rebuilding, verification, verify_folder
from hybrid_core.export import files as files_module
from hybrid_core.export.__main__ import main
from hybrid_core.export.loading import StoredWeightsUsed, read_folder
from hybrid_core.export.state import put_in_place, tensors_of
from hybrid_core.export.verification import Choices
from hybrid_core.handover import recipe_code, recipe_json
from hybrid_core.models.brought.inspection import inspect
from hybrid_core.models.registry import get_entry
from hybrid_core.records import MeasureLimits, MeasureRequest, Purpose, Recipe, Subject, Workload, to_json

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe.from_dict({"attention_fusion": "sdpa", "quantization": "int8_dynamic"})
PREFILL = get_entry("llama").workloads("tiny")[0]
FIGURES = {
    "speed_improvement": {"value": 2.0, "low": 1.9, "high": 2.1},
    "memory_efficiency": {"value": 3.0, "low": 3.0, "high": 3.0},
    "max_abs_error": 3.0,
    "warnings": ["a <script>alert(1)</script> | and ![x](http://evil.example/x)\n# not a heading"],
}
HERE = {"python": sys.version.split()[0], "torch": torch.__version__, "device": "cpu"}


def exported(recipe=RECIPE, model="llama", workload=PREFILL, **changes):
    run = {"run_id": "r1", **to_json(Subject(model, "tiny", workload)), "ended_at": time.time()}
    return recipe_json(run | changes, recipe, FIGURES, HERE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_folder(tmp_path_factory.mktemp("export") / "llama", exported())


@pytest.fixture
def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def tokens():
    return torch.randint(256, (1, 64), generator=torch.Generator().manual_seed(5))


def python(*arguments, cwd=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_the_loaded_model_is_the_applied_recipe_bit_for_bit(folder):
    model = get_entry("llama").build("tiny", 0)
    expected = apply_recipe(model, RECIPE, (tokens(),))
    loaded = load_folder(folder)
    with torch.no_grad():
        assert torch.equal(loaded(tokens()), expected(tokens()))
        assert not torch.equal(loaded(tokens()), model(tokens()))
    assert not loaded.training


def test_only_changed_weights_are_stored_and_they_are_int8(folder):
    facts = read_folder(folder).index
    with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
        stored = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    whole = sum(p.numel() * 4 for p in get_entry("llama").build("tiny", 0).parameters())
    assert torch.int8 in stored.values() and facts["embedding.weight"].stored is None
    assert (folder / "model.safetensors").stat().st_size < 0.4 * whole
    assert {f.stored for f in facts.values()} == {None, *stored}


def test_a_step_that_keeps_the_weights_stores_none(tmp_path):
    recipe = Recipe.from_dict({"attention_fusion": "sdpa"})
    made = export_folder(tmp_path / "f", exported(recipe))
    assert all(facts.stored is None for facts in read_folder(made).index.values())
    assert load_folder(made)(tokens()).shape == (1, 64, 256)


@pytest.mark.slow
def test_the_folder_verifies_in_a_fresh_interpreter_and_says_what_differs(folder, copied):
    done = python("verify.py", "--no-timing", cwd=copied)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok: ") == 3 and "bit for bit" in done.stdout and "everything agrees" in done.stdout
    assert sorted(p.name for p in copied.iterdir()) == sorted(p.name for p in folder.iterdir())


@pytest.mark.slow
def test_the_script_finds_the_package_in_the_folder_it_is_started_from(copied):
    """As the page on exporting says it, from the project's own folder and with nothing set."""
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(copied / "verify.py"), "--no-timing"]
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "everything agrees" in done.stdout, done.stderr
    elsewhere = subprocess.run(command, cwd=copied.parent, env=bare, capture_output=True, text=True, timeout=120)
    assert elsewhere.returncode == 1 and "start this from the folder that holds hybrid_core" in elsewhere.stderr


def test_the_timing_is_repeated_and_a_figure_that_is_not_reached_is_said(copied, monkeypatch, capsys):
    change_json(copied, "recipe.json", lambda data: data["figures"]["memory_efficiency"].update(low=900.0, high=901.0))
    quick = MeasureLimits(min_pairs=4, max_pairs=4, max_timed_s=0.5, quality_samples=2)
    monkeypatch.setattr(verification, "Choices", functools.partial(Choices, limits=quick))
    assert main(["verify", str(copied)]) == 1
    printed = capsys.readouterr()
    assert "DIFFERS: memory: 3.000 [900.000, 901.000] in the folder, " in printed.out
    assert "measured now: the intervals do not overlap" in printed.out and "checks do not agree" in printed.out
    assert "speed: 2.000 [1.900, 2.100] in the folder, " in printed.out and "ms optimized; 4 pairs" in printed.out
    assert main(["verify", str(copied / "nothing")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def change_json(folder, name, change, *, honest=True):
    """Change a JSON file of a folder; `honest` brings the manifest up to date."""
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))
    if honest:
        (folder / "manifest.json").unlink()
        files_module.write_manifest(folder)


def test_weights_that_came_out_differently_are_replaced_by_the_stored_ones(folder, monkeypatch):
    """Another processor may pack or round differently; what is returned is still what was exported."""
    right = load_folder(folder)
    apply_steps = rebuilding.apply_steps

    def applies_differently(*given):
        applied = apply_steps(*given)
        for module in applied.model.modules() if applied.changes else ():
            if isinstance(module, torch.ao.nn.quantized.Linear):
                weight = module.weight()
                scales, points = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
                halved = weight.int_repr() // 2
                other = torch._make_per_channel_quantized_tensor(halved, scales, points, weight.q_per_channel_axis())
                module.set_weight_bias(other, module.bias())
        return applied

    monkeypatch.setattr(rebuilding, "apply_steps", applies_differently)
    with pytest.warns(StoredWeightsUsed, match="of 99 tensors came out differently"):
        replaced = load_folder(folder)
    with torch.no_grad():
        assert torch.equal(replaced(tokens()), right(tokens()))


def test_every_kind_of_tensor_is_found_and_can_be_put_in_place():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.register_buffer("table", torch.ones(2, dtype=torch.complex64), persistent=False)
            self.plain = torch.ones((), dtype=torch.int64)
            self.inner = nn.Linear(2, 2)

    model = Holder()
    found = tensors_of(model)
    assert set(found) == {"weight", "table", "plain", "inner.weight", "inner.bias"}
    assert put_in_place(model, {name: torch.zeros_like(value) for name, value in found.items()}) == []
    assert all(not value.any() for value in tensors_of(model).values())
    assert put_in_place(model, {"nothing": torch.ones(1)}) == ["nothing"]


def test_a_module_of_ones_own_is_exported_and_needs_the_same_module_to_load(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    recipe = Recipe.from_dict({"quantization": "bfloat16"})
    data = recipe_json({"model": "Sequential", "size": "own"}, recipe, {}, {})
    made = export_folder(tmp_path / "mine", data, model)
    loaded = load_folder(made, model)
    assert torch.equal(loaded(torch.ones(2, 16)), apply_recipe(model, recipe)(torch.ones(2, 16)))
    with pytest.raises(InvalidInput, match="does not say which model"):
        load_folder(made)
    with pytest.raises(InvalidInput, match="put together differently"):
        load_folder(made, nn.Sequential(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 4)))


def test_a_model_that_somebody_brought_is_exported_and_its_own_file_is_needed_to_load(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    path = tmp_path / "mine.pt2"
    torch.export.save(torch.export.export(module, (torch.randn(4, 6),)), path)
    brought = inspect({"kind": "exported", "path": str(path), "name": "mine"})
    size, recipe = brought.sizes[0], Recipe.from_dict({"quantization": "bfloat16"})
    subject = Subject("mine", size, brought.workloads(size)[0], source=brought.registration.to_text())
    made = export_folder(tmp_path / "f", recipe_json(to_json(subject), recipe, {}, {}))
    loaded = load_folder(made)
    given = torch.ones(4, 6)
    found, expected = loaded(given), module(given)
    assert 0 < (found - expected).abs().max() < 0.05
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InvalidInput, match="changed since it was brought in"):
        load_folder(made)


def test_what_was_decided_by_measuring_is_kept_with_the_figures_and_done_again(tmp_path, monkeypatch):
    """Mixed precision chooses formats by measuring each layer; another measurement may choose others."""
    from hybrid_core.strategies.precision import mixed_precision

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    decided = {"mixed_5": {"0": "int8", "2": "float32", "4": "bfloat16"}}
    recipe = Recipe.from_dict({"quantization": "mixed_5"})
    monkeypatch.setattr(mixed_precision, "sensitivity_of", lambda *_: pytest.fail("the layers were measured again"))
    data = recipe_json({"model": "Sequential", "size": "own"}, recipe, {}, {"decisions": decided})
    made = export_folder(tmp_path / "f", data, model, torch.randn(4, 64))
    loaded = load_folder(made, model, torch.randn(4, 64))
    assert type(loaded[2]) is nn.Linear and type(loaded[0]) is not nn.Linear and type(loaded[4]) is not nn.Linear
    code = recipe_code(Subject("m", "tiny", PREFILL), recipe, {"environment": data["environment"]})
    assert f"workload=workload, decisions={decided!r})" in code
    for strange in ({"7": "int8"}, {"0": "int3"}, {"0": ["int8"]}, [], "x", {"0": "float32"}):
        with pytest.raises(StrategyUnsupported, match="what was decided for mixed_5 does not fit"):
            apply_recipe(model, recipe, torch.randn(4, 64), decisions={"mixed_5": strange})


def test_packages_come_along_by_export_files_or_by_the_path_of_an_aot_library(tmp_path, monkeypatch):
    class Packaged(nn.Module):
        def __init__(self, path):
            super().__init__()
            self.path, self.package_path = path, path

        def export_files(self):
            return {"model.onnx": b"graph", "weights.bin": self.path}

    from hybrid_core.export import writing

    (tmp_path / "some").write_bytes(b"numbers")
    writing._write_packages(tmp_path, nn.Sequential(Packaged(tmp_path / "some")))
    assert (tmp_path / "package/model.onnx").read_bytes() == b"graph"
    assert (tmp_path / "package/weights.bin").read_bytes() == b"numbers"
    assert (tmp_path / "package/model.pt2").read_bytes() == b"numbers"
    monkeypatch.setattr(Packaged, "export_files", lambda self: {"../out": b""})
    with pytest.raises(InvalidInput, match="no plain name"):
        writing._write_packages(tmp_path, Packaged(tmp_path / "some"))


def test_a_recipe_of_another_runtime_takes_its_graph_along_and_loads(tmp_path):
    """The graph in the folder is the model's: ONNX Runtime gives its answers without this package."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    rows = torch.randn(3, 16)
    recipe = Recipe.from_dict({"kernel_fusion": "onnxruntime"})
    made = export_folder(tmp_path / "f", recipe_json({"model": "S", "size": "own"}, recipe, {}, {}), model, rows)
    (graph,) = (made / "package").glob("*.onnx")
    session = onnxruntime.InferenceSession(str(graph))
    found = session.run(None, {session.get_inputs()[0].name: rows.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), model(rows).detach())
    loaded = load_folder(made, model, rows)
    torch.testing.assert_close(loaded(rows), model(rows).detach())
    findings = verify_folder(made, model, rows, choices=Choices(timing=False))
    assert all(finding.holds is not False for finding in findings)
    assert any(f"package/{graph.name} is there for its own runtime" in str(finding) for finding in findings)


def test_a_compiled_library_is_told_about_and_run_only_on_request(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Linear(16, 8))
    rows = torch.randn(3, 16)
    ran = []

    def load(path):
        ran.append(path)
        return lambda *given: [model(*given)]

    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
    monkeypatch.setattr(nn.Sequential, "package_path", str(tmp_path / "library"), raising=False)
    (tmp_path / "library").write_bytes(b"code")
    made = export_folder(tmp_path / "f", recipe_json({"model": "S", "size": "own"}, Recipe(), {}, {}), model, rows)
    load_folder(made, model, rows)
    quiet = verify_folder(made, model, rows, choices=Choices(timing=False))
    assert ran == [] and any("was not loaded; add --run-package" in str(finding) for finding in quiet)
    asked = verify_folder(made, model, rows, choices=Choices(timing=False, run_package=True))
    assert ran == [str(made / "package/model.pt2")] and any("was run: relative error" in str(f) for f in asked)


def test_the_card_has_figures_with_intervals_and_nothing_from_outside_becomes_markup(folder):
    card = (folder / "README.md").read_text()
    assert "| speed (untouched time / optimized time) | 2 | 1.9 to 2.1 |" in card
    assert "attention\\_fusion=sdpa+quantization=int8\\_dynamic" in card and "r1" in card and torch.__version__ in card
    assert "&lt;script&gt;" in card and "<script>" not in card and "\n# not a heading" not in card
    assert not re.search(r"(?<!\\)\]\(", card) and "http://" not in card
    assert "Its quality: none was recorded." in card


@pytest.mark.parametrize(
    "full", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["disk full", "interrupted"]
)
def test_nothing_half_written_stays(tmp_path, monkeypatch, full):
    def fails(folder):
        raise full

    monkeypatch.setattr(files_module, "write_manifest", fails)
    expected = InvalidInput if isinstance(full, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        export_folder(tmp_path / "out", exported())
    assert list(tmp_path.iterdir()) == []
    if isinstance(full, OSError):
        assert "cannot be written (No space left on device)" in str(caught.value)


def test_a_folder_that_is_there_is_never_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("out", "link", "out/mine.txt"):
        with pytest.raises(InvalidInput, match="exists already"):
            export_folder(tmp_path / name, exported())
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def rewrite_manifest(folder, change):
    data = json.loads((folder / "manifest.json").read_text())
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data))


def entry(name, size=1):
    return {"files": {name: {"bytes": size, "sha256": "0" * 64}}}


def add_file(name):
    return lambda folder: rewrite_manifest(folder, lambda data: data["files"].update(entry(name)["files"]))


def link(folder, name):
    (folder / name).rename(folder / f"real-{name}")
    (folder / name).symlink_to(folder / f"real-{name}")


def replace(folder, make):
    (folder / "manifest.json").unlink()
    make(folder / "manifest.json")


def change_run(**changes):
    return lambda folder: change_json(folder, "recipe.json", lambda data: data["run"].update(changes))


def change_tensors(change):
    return lambda folder: change_json(folder, "weights.json", lambda data: change(data["tensors"]))


FACTORY = json.dumps({"kind": "factory", "path": "os:abort", "name": "x", "sha256": "0" * 64})
HOSTILE = {
    "no folder": (shutil.rmtree, "is no folder"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
    "manifest is a folder": (
        lambda f: ((f / "manifest.json").unlink(), (f / "manifest.json").mkdir()),
        "no plain file",
    ),
    "manifest is a pipe": (lambda f: ((f / "manifest.json").unlink(), os.mkfifo(f / "manifest.json")), "no plain file"),
    "not JSON": (lambda f: (f / "manifest.json").write_text("{"), "cannot be read as JSON"),
    "deep JSON": (lambda f: (f / "manifest.json").write_text("[" * 100_000), "cannot be read as JSON"),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), "holds a list"),
    "huge JSON": (lambda f: os.truncate(f / "manifest.json", 1 << 40), "at most 16,777,216 are read"),
    "another format": (lambda f: rewrite_manifest(f, lambda d: d.update(format_version=9)), "export the run again"),
    "no files": (lambda f: rewrite_manifest(f, lambda d: d.update(files=[])), "lists no files"),
    "many files": (
        lambda f: rewrite_manifest(f, lambda d: [d["files"].update(entry(f"f{i}")["files"]) for i in range(99)]),
        "more than 64",
    ),
    "traversal": (add_file("../secret"), "no plain name"),
    "inner traversal": (add_file("package/../../secret"), "no plain name"),
    "absolute": (add_file("/etc/passwd"), "no plain name"),
    "newline": (add_file("recipe.json\n"), "no plain name"),
    "missing file": (add_file("more.json"), "more.json is missing"),
    "left out": (lambda f: rewrite_manifest(f, lambda d: d["files"].pop("recipe.json")), "does not list recipe.json"),
    "changed": (lambda f: (f / "recipe.json").write_text((f / "recipe.json").read_text()[:-1] + " "), "SHA-256"),
    "shortened": (lambda f: (f / "model.safetensors").write_bytes(b"x"), "has 1 bytes"),
    "link": (lambda f: link(f, "recipe.json"), "is a link"),
    "linked manifest": (lambda f: link(f, "manifest.json"), "is a link"),
    "unknown model": (change_run(model="gpt9"), "'gpt9' is unknown"),
    "unknown size": (change_run(size="vast"), "'vast' of model"),
    "no run": (lambda f: change_json(f, "recipe.json", lambda d: d.update(run=3)), "does not say which model"),
    "giant workload": (
        change_run(workload=to_json(Workload("prefill", "prefill", 10**9, 10**9))),
        "llama has no workload",
    ),
    "text for a seed": (change_run(seed="1"), "does not say which model"),
    "code": (change_run(source=FACTORY), "importing that runs it"),
    "no registration": (change_run(source="{"), "cannot be read"),
    "no device": (change_run(device="cuda:7"), "'cuda:7' is not on this machine"),
    "unknown step": (
        lambda f: change_json(f, "recipe.json", lambda d: d.update(recipe={"quantization": "int0"})),
        "no setting 'int0'",
    ),
    "another seed of tensors": (change_tensors(lambda t: t.pop("embedding.weight")), "put together differently"),
    "wrong shape": (change_tensors(lambda t: t["embedding.weight"].update(shape=[1])), "put together differently"),
    "no shape": (change_tensors(lambda t: t["embedding.weight"].update(shape="x")), "describes 'embedding.weight'"),
    "other digest": (change_tensors(lambda t: t["embedding.weight"].update(sha256="0" * 64)), "is another one"),
    "no tensors": (lambda f: change_json(f, "weights.json", lambda d: d.update(tensors=1)), "lists no tensors"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_folder_is_one_sentence(copied, name):
    spoil, words = HOSTILE[name]
    spoil(copied)
    with pytest.raises(InvalidInput) as caught:
        load_folder(copied)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_stored_weights_that_are_not_what_the_index_says_are_refused(copied):
    def swap(tensors):
        changed = [facts for facts in tensors.values() if facts["stored"]]
        changed[0]["sha256"] = "1" * 64

    change_json(copied, "weights.json", lambda data: swap(data["tensors"]))
    with pytest.raises(InvalidInput, match="is not what weights.json describes"):
        load_folder(copied)


def test_a_module_beside_the_script_is_not_imported(copied):
    (copied / "torch.py").write_text("raise SystemExit('owned')")
    (copied / "recipe.json").write_text("{}")
    done = python("verify.py", cwd=copied)
    assert done.returncode == 1 and "owned" not in done.stderr and "recipe.json has 2 bytes" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_measurement_records_what_was_decided_in_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    case = case_from_module(model, (torch.randn(4, 64),))
    recipe = Recipe.from_dict({"quantization": "mixed_5"})
    subject = Subject("m", "own", case.workload)
    quick = MeasureLimits(min_pairs=4, max_pairs=4, max_timed_s=0.5, quality_samples=2)
    trial = evaluate(case, MeasureRequest("t", "r", subject, recipe, Purpose.FINAL, quick))
    assert trial.measurement is not None, trial.reason
    decided = recipe_json({}, recipe, trial.measurement, trial.measurement.environment)["decisions"]
    assert set(decided["mixed_5"]) == {"0", "2"} and json.dumps(decided)
