"""Which ways of writing attention `sdpa` fuses, and why it refuses the others.

Question: what does a user's own attention have to look like? Method: `sdpa` is applied to every spelling that the tests
know (hand-written modules, the same ones brought as exported programs, PyTorch's own layer, eager models of
transformers), each outcome is written down as it came, and `docs/attention_coverage.md` is the table. The tests prove
that the fused ones answer equally; one of them holds the committed table to the lists it was made from.

    python benchmarks/attention_coverage.py
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from hybrid_core.errors import StrategyUnsupported  # noqa: E402
from hybrid_core.models.brought.exported import ExportedFile  # noqa: E402
from hybrid_core.records import Workload  # noqa: E402
from hybrid_core.strategies.attention.search import count_fused_calls  # noqa: E402
from hybrid_core.strategies.attention_fusion import ATTENTION_FUSION  # noqa: E402
from hybrid_core.strategies.base import Situation, run_example  # noqa: E402
from tests.hybrid_core.strategies import attention_spellings as spellings  # noqa: E402
from tests.hybrid_core.strategies import multihead_spellings as multihead  # noqa: E402

PAGE = ROOT / "docs" / "attention_coverage.md"
EXPORTED = (
    "FusedQkv", "EinsumLayout", "GroupedExpand", "GroupedRepeat", "FillInPlace", "WideSoftmax", "BmmWithViews",
    "AdditiveMask", "RelativeBias", "Returned",
)  # fmt: skip
FAMILIES = {
    "Llama": ("prefill", "decode"), "Qwen2": ("prefill",), "Qwen3": ("decode",), "DeepseekV3": ("decode",),
    "ViT": ("forward",), "Bert": ("forward",), "Gemma2": ("prefill",),
}  # fmt: skip
INTRODUCTION = """# Which attention is fused

`attention_fusion: sdpa` rewrites attention that is written out as matmul, softmax, matmul. This table says, for every
spelling that the tests know, whether it becomes `scaled_dot_product_attention` or stays, and why. It is written by
`python benchmarks/attention_coverage.py`; the spellings are in `tests/hybrid_core/strategies/`. Beside these, the tests
generate modules from the choices in `generated_attention.py` and hold every one to equal outputs or a refusal.
"""


@dataclass(frozen=True)
class Entry:
    """One row: what is tried, from where, and how the model and its call are made."""

    name: str
    origin: str
    fused: bool
    build: Callable[[], nn.Module]
    example: Callable[[], tuple[Any, ...]]
    call: Callable[[nn.Module, tuple[Any, ...]], Any]
    note: str = ""


def _example() -> tuple[torch.Tensor, ...]:
    return (torch.randn(2, 10, spellings.DIM, generator=torch.Generator().manual_seed(0)),)


def _call(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    return model(*inputs)


def _seeded(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return kind().eval()


def _rebuilt(kind: Callable[[], nn.Module]) -> nn.Module:
    """The module as a program that was exported, saved and brought as a file."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "program.pt2"
        torch.export.save(torch.export.export(_seeded(kind), _example()), path)
        return ExportedFile(str(path), {}).build().eval()


def entries() -> Iterator[Entry]:
    """Every row of the table, in order."""
    for kinds, fused in ((spellings.FUSED, True), (spellings.REFUSED, False)):
        for kind in kinds:
            note = " ".join((kind.__doc__ or "").split())
            yield Entry(kind.__name__, "hand-written", fused, lambda k=kind: _seeded(k), _example, _call, note)
    refused = {kind.__name__ for kind in spellings.REFUSED}
    for name in EXPORTED:
        kind = getattr(spellings, name)
        yield Entry(name, "exported program (.pt2)", name not in refused, lambda k=kind: _rebuilt(k), _example, _call)
    for group, fused in ((multihead.STORING, True), (multihead.KEPT, False)):
        for name, make in group.items():
            yield Entry(name, "nn.MultiheadAttention", fused, lambda m=make: m().eval(), _example, _call)
    yield from _library_entries()


def _library_entries() -> Iterator[Entry]:
    from tests.hybrid_core.strategies import transformers_families as families

    for family, names in FAMILIES.items():
        for name in names:
            yield Entry(
                f"{family}, {name}", "transformers, eager", family != "Gemma2",
                lambda f=family: families.build(f, layers=1), lambda f=family: families.inputs(f),
                families.calls(family)[name],
            )  # fmt: skip


def verdict(entry: Entry) -> str:
    """'fused', or 'refused: ' and the reason, as it comes out now."""
    situation = Situation(entry.example(), entry.call, Workload("forward", "forward", 2))
    model = entry.build()
    try:
        changed = ATTENTION_FUSION.apply("sdpa", copy.deepcopy(model), situation).model
    except StrategyUnsupported as refusal:
        reason = str(refusal).removeprefix("no attention could be fused; ")
        return f"refused: {reason.split(': ', 1)[1] if reason.split(': ', 1)[0].count(' ') < 2 else reason}"
    calls = [count_fused_calls(lambda m=m: run_example(m, situation)) for m in (model, changed)]
    return "fused" if calls[1] > 0 else "neither fused nor refused"


def main() -> None:
    """Try every entry and write the page."""
    rows = []
    for entry in entries():
        rows.append(f"| {entry.name} | {entry.origin} | {verdict(entry)} | {entry.note} |")
        print(rows[-1], flush=True)
    fused = sum("| fused |" in row for row in rows)
    table = ["| spelling | where | verdict | what is special |", "| --- | --- | --- | --- |", *rows]
    count = f"\n{fused} of {len(rows)} are fused; every other row carries the reason that a user is given.\n"
    PAGE.write_text("\n".join([INTRODUCTION + count, *table, ""]))


if __name__ == "__main__":
    main()
