"""Holds the import table of the design: who may import whom, and who must never meet torch or duckdb."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STDLIB = set(sys.stdlib_module_names)
PACKAGES = ("hybrid_core", "workers", "storage", "pages")
CONTRACT = ("hybrid_core.records", "hybrid_core.errors", "hybrid_core.config")
# A leaf that counts allocated bytes, for the measurement and for the setting that lowers them.
ALLOCATED = "hybrid_core.allocated"
SCIENCE = ("torch", "numpy", "safetensors", "tqdm", "psutil", "pynvml")
RUNTIMES = ("onnxruntime", "onnx", "openvino", "nncf")
LIGHT_ADAPTIVE = ("hybrid_core.adaptive.recommend", "hybrid_core.adaptive.history")

# module prefix -> what it may import beside the standard library and itself; the longest prefix wins
ALLOWED = {
    "hybrid_core.errors": (),
    "hybrid_core.records": (),
    "hybrid_core.config": CONTRACT,
    "hybrid_core.handover": CONTRACT,
    "hybrid_core.adaptive": CONTRACT,
    "hybrid_core.models": (*CONTRACT, *SCIENCE, "av", "PIL"),
    # What only making data, training or bringing a model needs; imported inside functions.
    "hybrid_core.models.training": (*CONTRACT, *SCIENCE, "hybrid_core.models", "sklearn", "playwright", "PIL", "av"),
    "hybrid_core.models.brought": (*CONTRACT, *SCIENCE, "hybrid_core.models", "transformers"),
    "hybrid_core.allocated": ("torch",),
    "hybrid_core.strategies": (*CONTRACT, *SCIENCE, ALLOCATED),
    # The libraries of one method each, imported inside functions.
    "hybrid_core.strategies.precision": (*CONTRACT, *SCIENCE, "hybrid_core.strategies", "torchao", "scipy"),
    # Other runtimes are optional and large: imported inside functions, absent = unavailable with a reason.
    "hybrid_core.strategies.runtimes": (*CONTRACT, *SCIENCE, "hybrid_core.strategies", *RUNTIMES),
    "hybrid_core.measurement": (*CONTRACT, *SCIENCE, ALLOCATED),
    # gymnasium only for the class that offers its interface; the learner plays the same game without it.
    "hybrid_core.rl": (*CONTRACT, *SCIENCE),
    "hybrid_core.rl.environment": (*CONTRACT, *SCIENCE, "hybrid_core.rl", "gymnasium"),
    # Controls from outside; imported inside functions, absent = unavailable with a reason.
    "hybrid_core.search.searchers.optuna_adapter": ("hybrid_core", "optuna"),
    "hybrid_core": ("hybrid_core", *SCIENCE),
    "storage": ("duckdb", "pyarrow", *CONTRACT),
    "workers": ("hybrid_core", "storage", "apscheduler", "pyarrow", "psutil", "pynvml", "tqdm"),
    "pages": ("streamlit", "plotly", "workers.client", *CONTRACT),
    "app": ("streamlit", "pages", "workers.client", *CONTRACT),
}
# These processes live long beside every measurement, so they must not carry torch (memory, threads, a CUDA context).
NEVER_TORCH = (
    "workers.hub",
    "workers.client",
    "workers.__main__",
    "storage.queries",
    "hybrid_core",
    "hybrid_core.records",
    "hybrid_core.handover",
    "app",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str, module: str) -> set[str]:
    """Every absolute name a module imports, `from a import b` counted as both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import; write it absolutely"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def allowed_for(module: str) -> tuple[str, ...]:
    prefix = max((p for p in ALLOWED if module == p or module.startswith(p + ".")), key=len)
    own = prefix if prefix not in ("hybrid_core.config", "hybrid_core.errors", "hybrid_core.records") else module
    return (*ALLOWED[prefix], own)


def violations(module: str, source: str) -> list[str]:
    allowed = allowed_for(module)
    return sorted(
        name
        for name in imported_names(source, module)
        if name.split(".")[0] not in STDLIB and not any(name == a or name.startswith(a + ".") for a in allowed)
    )


def sources() -> list[Path]:
    files = [ROOT / "app.py"]
    for package in PACKAGES:
        files.extend(sorted((ROOT / package).rglob("*.py")))
    return files


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_follow_the_table(path: Path) -> None:
    assert violations(module_name(path), path.read_text()) == []


def test_the_table_catches_a_page_that_imports_torch_or_duckdb() -> None:
    assert violations("pages.live", "import torch\nfrom duckdb import connect\nimport json") == [
        "duckdb.connect",
        "torch",
    ]
    assert violations("hybrid_core.models.llama", "from hybrid_core.strategies import registry") == [
        "hybrid_core.strategies.registry"
    ]
    assert violations("storage.queries", "import streamlit, duckdb") == ["streamlit"]
    assert violations("hybrid_core.records", "import numpy") == ["numpy"]


@pytest.mark.parametrize("module", NEVER_TORCH)
def test_long_lived_processes_never_load_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or f"importing {module} loads torch"


@pytest.mark.parametrize("module", ["workers.client", "app"])
def test_the_dashboard_process_never_loads_duckdb(module: str) -> None:
    program = f"import sys, {module}; sys.exit('duckdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or f"importing {module} loads duckdb"


def test_no_file_is_longer_than_three_hundred_lines() -> None:
    """A file that has grown past 300 lines is split or says why here."""
    reasons = {"hybrid_core/records.py": "the whole vocabulary on one page"}
    long = {module_name(p): n for p in sources() if (n := len(p.read_text().splitlines())) > 300}
    assert {m for m in long if m.replace(".", "/") + ".py" not in reasons} == set(), long


def test_nothing_is_unpickled_or_evaluated() -> None:
    """Loading a file never runs code from it, and no page writes raw HTML."""
    forbidden = (
        "import pickle",
        "pickle.load",
        "shell=True",
        "unsafe_allow_html=True",
        "torch.load(",
        "eval(compile",
        "os.system(",
    )
    found = [(module_name(p), f) for p in sources() for f in forbidden if f in p.read_text()]
    assert found == []
