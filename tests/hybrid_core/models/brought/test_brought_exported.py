"""Exported programs are rebuilt as data: equal answers for honest ones, a reason for hostile ones, no code run."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.exported import ExportedFile
from hybrid_core.records import Workload

FORWARD = Workload("forward", "forward", batch=1)
ROOT = "p"


class Mixed(nn.Module):
    """Embedding, convolution, in-place activation, tied weights, buffers, constants, a branch without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(29, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 29, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8))
        self.shift = torch.arange(8.0)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        x = self.embedding(tokens.view(-1, tokens.shape[1]))
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        x = self.activation(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2)
        with torch.no_grad():
            x = x * self.scale + self.shift
        left, right = x.split(4, dim=-1)
        x = torch.cat([right, left], dim=-1) / x.abs().amax(dim=-1, keepdim=True).clamp(min=1.0)
        return {"logits": self.head(x), "pooled": (x.mean(1), torch.topk(x, 2).values)}


def save(module: nn.Module, inputs: tuple[Any, ...], path: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    with torch.no_grad():
        torch.export.save(torch.export.export(module.eval(), inputs, **options), path)
    return path


def tensors_of(output: Any) -> list[Tensor]:
    found, _ = torch.utils._pytree.tree_flatten(output)
    return [item for item in found if isinstance(item, Tensor)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = (torch.randint(29, (3, 12)), torch.ones(3, 12, dtype=torch.bool))
    return save(Mixed(), inputs, tmp_path_factory.mktemp("pt2") / f"{ROOT}.pt2")


def test_a_rebuilt_program_answers_like_the_one_torch_loads(mixed: Path) -> None:
    source = ExportedFile(str(mixed), {})
    inputs = source.make_inputs(FORWARD, torch.Generator().manual_seed(1))
    with torch.no_grad():
        got = source.call(source.build(), FORWARD, inputs)
        expected = tensors_of(torch.export.load(mixed).module()(*inputs))
    assert len(got) == len(expected) == 3
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_inputs_are_inferred_from_the_signature_and_bounded_by_the_embedding(mixed: Path) -> None:
    source = ExportedFile(str(mixed), {})
    assert [(spec.dtype, spec.shape, spec.low, spec.high) for spec in source.inputs] == [
        ("int64", (3, 12), 0, 29),
        ("bool", (3, 12), None, None),
    ]
    first, second = (source.make_inputs(FORWARD, torch.Generator().manual_seed(seed))[0] for seed in (1, 2))
    assert not torch.equal(first, second) and int(first.max()) < 29


def test_tied_weights_are_counted_once_and_stay_tied(mixed: Path) -> None:
    model = ExportedFile(str(mixed), {}).build()
    expected = sum(p.numel() for p in Mixed().parameters())
    pointers = {p.data_ptr(): p.numel() for p in model.parameters()}
    assert sum(pointers.values()) == expected


def test_linear_layers_are_layers_again_with_the_weights_of_the_file(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))
    model = ExportedFile(str(save(network, (torch.randn(4, 6),), tmp_path / "n.pt2")), {}).build()
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(8, 6), (3, 8)]
    assert torch.equal(layers[0].weight, network[0].weight) and layers[1].bias is None
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in network.parameters())


def test_a_dynamic_size_gets_the_value_it_had_in_the_export(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.Flatten(0))
    path = save(module, (torch.randn(4, 6),), tmp_path / "d.pt2", dynamic_shapes=({0: torch.export.Dim("n", max=64)},))
    source = ExportedFile(str(path), {})
    assert source.inputs[0].shape == (4, 6)
    with torch.no_grad():
        assert torch.allclose(source.build()(torch.ones(9, 6)), module(torch.ones(9, 6)))


def test_a_built_program_can_be_copied_put_into_eval_mode_and_moved(mixed: Path) -> None:
    import copy

    model = copy.deepcopy(ExportedFile(str(mixed), {}).build()).eval()
    assert not model.training and all(not p.requires_grad for p in model.parameters())
    assert all(x.is_meta for x in ExportedFile(str(mixed), {}).skeleton().parameters())


def test_whole_numbers_without_an_embedding_ask_for_an_example(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def forward(self, numbers: Tensor) -> Tensor:
            return numbers.float().softmax(-1)

    source = ExportedFile(str(save(Counts(), (torch.ones(2, 3, dtype=torch.int64),), tmp_path / "c.pt2")), {})
    with pytest.raises(InvalidInput, match="give a labelled safetensors file"):
        source.make_inputs(FORWARD, torch.Generator())


def test_programs_that_change_their_buffers_or_draw_numbers_are_refused(tmp_path: Path) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x + self.calls

    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    program = torch.export.export(Counter(), (torch.ones(2),)).run_decompositions()
    torch.export.save(program, tmp_path / "counter.pt2")
    with pytest.raises(InvalidInput, match="may not change its buffers"):
        ExportedFile(str(tmp_path / "counter.pt2"), {})
    with pytest.raises(InvalidInput, match="draws random numbers"):
        ExportedFile(str(save(Noise(), (torch.ones(2),), tmp_path / "noise.pt2")), {}).build()


class Run:
    """A pickle that writes a canary file when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.write_text, (self.canary, "run")


def spoil(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of an archive with changed records."""
    with zipfile.ZipFile(source) as file:
        records = {name.removeprefix(f"{ROOT}/"): file.read(name) for name in file.namelist()}
    change(records)
    with zipfile.ZipFile(target, "w") as file:
        for name, data in records.items():
            file.writestr(f"{ROOT}/{name}", data)
    return target


def in_program(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(records: dict[str, bytes]) -> None:
        program = json.loads(records["models/model.json"])
        change(program["graph_module"])
        records["models/model.json"] = json.dumps(program).encode()

    return apply


def in_weights(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(records: dict[str, bytes]) -> None:
        listed = json.loads(records["data/weights/model_weights_config.json"])
        change(listed["config"]["head.weight"])
        records["data/weights/model_weights_config.json"] = json.dumps(listed).encode()

    return apply


def target(name: str) -> Callable[[dict[str, bytes]], None]:
    return in_program(lambda module: module["graph"]["nodes"][0].update(target=name))


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "custom object": (lambda r: r.update({"data/constants/custom_obj_0": b"x"}), "custom_obj_0"),
    "opaque object": (lambda r: r.update({"data/constants/opaque_obj_0": b"x"}), "opaque_obj_0"),
    "legacy pickle of weights": (lambda r: r.update({"data/weights/model.pt": b"x"}), "data/weights/model.pt"),
    "compiled library": (lambda r: r.update({"data/aotinductor/model/a.so": b"x"}), "a.so"),
    "a second program": (lambda r: r.update({"models/other.json": b"{}"}), "models/other.json"),
    "path upwards": (lambda r: r.update({"../../evil": b"x"}), "evil"),
    "absolute path": (lambda r: r.update({"/etc/passwd": b"x"}), "passwd"),
    "no weights list": (lambda r: r.pop("data/weights/model_weights_config.json"), "model_weights_config.json"),  # type: ignore[dict-item, return-value]
    "another format": (lambda r: r.update(archive_format=b"zip"), "archive_format"),
    "big-endian": (lambda r: r.update(byteorder=b"big"), "byteorder"),
    "program is no JSON": (lambda r: r.update({"models/model.json": b"{"}), "JSON"),
    "program is a list": (lambda r: r.update({"models/model.json": b"[]"}), "object"),
    "program is empty": (lambda r: r.update({"models/model.json": b"{}"}), "no graph"),
    "pickled weight": (in_weights(lambda e: e.update(use_pickle=True)), "pickled"),
    "weight elsewhere": (in_weights(lambda e: e.update(path_name="../../x")), "not there"),
    "weight beyond its bytes": (
        in_weights(lambda e: e["tensor_meta"].update(storage_offset={"as_int": 10**6})),
        "reaches beyond",
    ),
    "negative stride": (
        in_weights(lambda e: e["tensor_meta"].update(strides=[{"as_int": -1}, {"as_int": 1}])),
        "stride",
    ),
    "weight on a GPU": (in_weights(lambda e: e["tensor_meta"].update(device={"type": "cuda", "index": 0})), "cuda"),
    "unknown dtype": (in_weights(lambda e: e["tensor_meta"].update(dtype=99)), "dtype"),
    "symbolic weight": (
        in_weights(lambda e: e["tensor_meta"].update(sizes=[{"as_expr": {"expr_str": "__import__('os')"}}] * 2)),
        "plain whole number",
    ),
    "the operating system": (target("torch.os.system"), "torch.os.system"),
    "the hub": (target("torch.hub.load"), "torch.hub.load"),
    "reading files": (target("torch.ops.aten.from_file.default"), "from_file"),
    "a library's operation": (target("torch.ops.evil.run.default"), "torch.ops.evil"),
    "an operator of Python": (target("_operator.attrgetter"), "_operator.attrgetter"),
    "an extension": (target("#evil:run"), "#evil:run"),
    "an operation that is not there": (target("torch.ops.aten.embedding.nothing"), "does not exist"),
    "private operation": (target("torch.ops.aten._resize_output.default"), "_resize_output"),
    "a nested graph": (
        in_program(
            lambda m: m["graph"]["nodes"][0].update(
                target="torch.ops.higher_order.cond", inputs=[{"name": "", "arg": {"as_graph": {}}}]
            )
        ),
        "higher_order.cond",
    ),
    "a value before it is there": (in_program(lambda m: m["graph"]["nodes"].reverse()), "before it is there"),
    "a name given twice": (
        in_program(lambda m: m["graph"]["nodes"].insert(0, m["graph"]["nodes"][0])),
        "twice",
    ),
    "an unknown argument": (
        in_program(lambda m: m["graph"]["nodes"][0]["inputs"][0].update(name="evil")),
        "is called with",
    ),
    "an operator as argument": (
        in_program(lambda m: m["graph"]["nodes"][0]["inputs"][0].update(arg={"as_operator": "torch.os.system"})),
        "as_operator",
    ),
    "a custom object as input": (
        in_program(lambda m: m["signature"]["input_specs"].append({"custom_obj": {}})),
        "custom_obj",
    ),
    "nodes that are numbers": (in_program(lambda m: m["graph"].update(nodes=[1, 2])), "damaged node"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_program_is_refused_with_its_reason(mixed: Path, tmp_path: Path, case: str) -> None:
    change, told = HOSTILE[case]
    path = spoil(mixed, tmp_path / "hostile.pt2", change)
    with pytest.raises(InvalidInput) as refusal:
        ExportedFile(str(path), {}).build()
    assert told in str(refusal.value), str(refusal.value)
    assert len(str(refusal.value)) < 600


def test_an_honest_copy_of_the_archive_is_accepted(mixed: Path, tmp_path: Path) -> None:
    path = spoil(mixed, tmp_path / "copy.pt2", lambda records: None)
    assert ExportedFile(str(path), {}).build() is not None


def test_nothing_that_torch_would_run_from_the_file_is_run(mixed: Path, tmp_path: Path) -> None:
    """Example inputs as a pickle, guards, symbols and metadata with code: ignored here, run by torch's own loader."""
    canary = tmp_path / "canary"
    code = f"__import__('pathlib').Path({str(canary)!r}).write_text('run')"

    def change(records: dict[str, bytes]) -> None:
        hostile = io.BytesIO()
        with zipfile.ZipFile(hostile, "w") as inner:
            inner.writestr("archive/data.pkl", pickle.dumps(Run(canary)))
            inner.writestr("archive/version", "3")
        records["data/sample_inputs/model.pt"] = hostile.getvalue()
        program = json.loads(records["models/model.json"])
        program["guards_code"] = [code]
        graph = program["graph_module"]["graph"]
        for meta in graph["tensor_values"].values():
            meta["strides"] = [{"as_expr": {"expr_str": code, "hint": None}} for _ in meta["strides"]]
        for node in graph["nodes"]:
            node["metadata"] = {"source_fn_stack": f"x,{code}", "stack_trace": f'"""; {code}; """'}
        records["models/model.json"] = json.dumps(program).encode()

    path = spoil(mixed, tmp_path / "armed.pt2", change)
    source = ExportedFile(str(path), {})
    with torch.no_grad():
        source.build()(*source.make_inputs(FORWARD, torch.Generator()))
    source.describe()
    assert not canary.exists()
    with pytest.raises(Exception):  # noqa: B017  (whatever torch makes of it, the code has run by then)
        torch.export.load(path)
    assert canary.exists(), "the archive is not hostile enough to prove anything"


def test_names_from_the_file_never_reach_generated_code(mixed: Path, tmp_path: Path) -> None:
    evil = "x = __import__('os').getpid()\n    y"

    def change(records: dict[str, bytes]) -> None:
        text = records["models/model.json"].decode()
        name = json.loads(text)["graph_module"]["graph"]["nodes"][0]["name"]
        records["models/model.json"] = text.replace(f'"{name}"', json.dumps(evil)).encode()

    model: Any = ExportedFile(str(spoil(mixed, tmp_path / "names.pt2", change)), {}).build()
    assert "getpid" not in model.code


def test_compressed_overlapping_and_damaged_archives_are_refused(mixed: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{ROOT}/archive_format", b"pt2" * 10**6)
    with pytest.raises(InvalidInput, match="compressed"):
        ExportedFile(str(path), {})
    path.write_bytes(mixed.read_bytes()[:3_000])
    with pytest.raises(InvalidInput, match="zip archive"):
        ExportedFile(str(path), {})
    damaged = bytearray(mixed.read_bytes())
    damaged[damaged.index(b'{"config"') + 3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InvalidInput, match="damaged"):
        ExportedFile(str(path), {})
    with pytest.raises(InvalidInput, match=r"not a \.pt2 file"):
        ExportedFile(str(mixed.parent), {})


def test_a_program_that_changed_since_it_was_checked_is_refused(mixed: Path, tmp_path: Path) -> None:
    path = spoil(mixed, tmp_path / "p.pt2", lambda records: None)
    source = ExportedFile(str(path), {})
    spoil(mixed, path, lambda records: records.update(version=b"3"))
    with pytest.raises(InvalidInput, match="changed since it was brought in"):
        source.build()
