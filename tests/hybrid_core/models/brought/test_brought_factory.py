"""Code of one's own is imported only when it is switched on and listed, and only when the module is really made."""

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.factory import FactoryFunction, find_source
from hybrid_core.records import Workload

FORWARD = Workload("forward", "forward", batch=1)
BODY = """
import torch
from torch import nn
from pathlib import Path
Path({canary!r}).write_text("imported")

class Twice(nn.Module):
    def forward(self, x, y):
        return x * 2 + y.float()

def pair():
    return Twice(), (torch.linspace(3, 5, 20).view(4, 5), torch.arange(20).view(4, 5))

def linear():
    return nn.Sequential(nn.Linear(6, 3), nn.Tanh())

def convolution():
    return nn.Conv2d(3, 4, 3)

def nothing():
    return 7

def leaves():
    raise SystemExit("bye")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh package with one module `made`; importing any of it writes tmp_path/canary."""
    name = f"brought_{uuid.uuid4().hex[:8]}"
    folder = tmp_path / "site" / name
    folder.mkdir(parents=True)
    touch = f"from pathlib import Path\nPath({str(tmp_path / 'canary')!r}).write_text('imported')\n"
    (folder / "__init__.py").write_text(touch)
    (folder / "made.py").write_text(BODY.format(canary=str(tmp_path / "canary")))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield name
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]


Open = Callable[..., FactoryFunction]


@pytest.fixture
def opened(package: str) -> Open:
    return lambda function, **details: FactoryFunction(
        f"{package}.made:{function}", {"allowed_packages": [package], **details}
    )


@pytest.mark.parametrize("allowed", [None, [], (), "all", {}])
def test_code_is_switched_off_without_a_list(package: str, allowed: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="switched off; start the server with --allow-code"):
        FactoryFunction(f"{package}.made:pair", {"allowed_packages": allowed} if allowed is not None else {})
    assert not (tmp_path / "canary").exists() and package not in sys.modules


def test_a_package_that_is_not_listed_is_refused_without_importing_it(package: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not on the list"):
        FactoryFunction(f"{package}.made:pair", {"allowed_packages": ["another", package[:-1]]})
    assert not (tmp_path / "canary").exists() and package not in sys.modules


def test_opening_finds_and_hashes_the_source_without_importing_it(opened: Open, package: str, tmp_path: Path) -> None:
    import hashlib

    source = opened("pair")
    assert source.file == tmp_path / "site" / package / "made.py"
    assert source.sha256 == hashlib.sha256(source.file.read_bytes()).hexdigest()
    assert not (tmp_path / "canary").exists() and package not in sys.modules


def test_a_pair_is_built_and_fed_with_inputs_like_its_example(opened: Open) -> None:
    source = opened("pair")
    details = source.describe()
    again = opened("pair", inputs=details["inputs"])
    x, y = again.make_inputs(FORWARD, torch.Generator().manual_seed(2))
    assert x.shape == y.shape == (4, 5) and 3.0 < float(x.mean()) < 5.0
    assert int(y.min()) >= 0 and int(y.max()) <= 19
    assert torch.equal(again.call(again.build(), FORWARD, (x, y)), x * 2 + y.float())


def test_a_module_alone_gets_inputs_from_its_first_layer(opened: Open) -> None:
    assert opened("linear").describe()["inputs"][0]["shape"] == (32, 6)


def test_random_weights_are_the_same_in_every_build(opened: Open) -> None:
    source = opened("linear")
    left, right = source.build().state_dict(), source.build().state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("convolution", "does not tell its input"),
        ("nothing", "returned a int"),
        ("leaves", "SystemExit: bye"),
        ("missing", "AttributeError"),
    ],
)
def test_what_goes_wrong_in_the_function_is_a_sentence(opened: Open, function: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        opened(function).describe()


def test_a_source_that_changed_since_it_was_looked_at_is_not_imported(opened: Open, tmp_path: Path) -> None:
    source = opened("pair")
    source.file.write_text("raise RuntimeError('changed')\n")
    with pytest.raises(InvalidInput, match="changed since it was brought in"):
        source.build()
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "path", ["", "made", "a:b:c", "a.b:", ":f", "a..b:f", "a.b:f()", "a b:f", "ä:f", "a/b:f", "a:f\n", "x" * 600 + ":f"]
)
def test_a_path_of_another_form_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="write package.module:function"):
        FactoryFunction(path, {"allowed_packages": ["a"]})


def test_modules_without_python_source_or_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InvalidInput, match="is not found"):
        find_source("there_is_no_such_package.made")
    with pytest.raises(InvalidInput, match="is not found"):
        find_source("json.decoder.deeper")
    with pytest.raises(InvalidInput, match="no Python source file"):
        find_source("_ctypes")
    assert find_source("json.decoder") == Path(sys.modules["json"].__file__ or "").parent / "decoder.py"
