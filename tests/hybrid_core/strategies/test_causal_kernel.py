"""The causal kernel is used exactly where the mask is the causal one, and changes no result anywhere else."""

import copy

import pytest
import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.recipes import check_recipe
from hybrid_core.records import Workload
from hybrid_core.strategies.attention.causal_kernel import counted_skips, is_causal_mask, looks_causal
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.registry import get_strategy


class Written(nn.Module):
    """Attention as people write it: (batch, heads, rows, width) and an additive mask."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + mask, dim=-1) @ v


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core = Written()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return self.core(q, k, v, mask)


def operands(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 3, n, 8, generator=generator) for n in (rows, columns, columns))


def causal(rows: int, fill: float = float("-inf"), dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full((rows, rows), fill, dtype=dtype).triu(1)


def fused(mask: Tensor, rows: int = 6) -> nn.Module:
    model = Block().eval()
    situation = Situation(
        (*operands(rows, rows), mask),
        lambda m, given: m(*given),
        Workload("forward", "forward", 2),
        torch.device("cpu"),
    )
    return get_strategy("attention_fusion").apply("sdpa_causal", copy.deepcopy(model), situation).model


def reference(mask: Tensor, rows: int, columns: int) -> bool:
    """The definition, entry by entry."""
    if mask.shape[-2:] != (rows, columns) or rows != columns or rows < 2:
        return False
    low = torch.finfo(mask.dtype).min
    flat = mask.reshape(-1, rows, columns)
    return all((m[i, j] <= low) if j > i else (m[i, j] == 0) for m in flat for i in range(rows) for j in range(columns))


MASKS = {
    "minus infinity": causal(5),
    "lowest number": causal(5, torch.finfo(torch.float32).min),
    "bfloat16": causal(5, torch.finfo(torch.bfloat16).min, torch.bfloat16),
    "per head and batch": causal(5).expand(2, 3, 5, 5),
    "nothing hidden": torch.zeros(5, 5),
    "diagonal hidden too": torch.full((5, 5), float("-inf")).triu(0),
    "sees one ahead": torch.full((5, 5), float("-inf")).triu(2),
    "a bias below the diagonal": causal(5) + torch.full((5, 5), 0.5).tril(-1),
    "finite, not lowest": causal(5, -1e4),
    "padding in one row": causal(5).index_fill(1, torch.tensor([0]), float("-inf")),
    "one batch differs": torch.stack([causal(5), torch.zeros(5, 5)]).unsqueeze(1),
    "not square": torch.zeros(5, 7),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_causal_exactly_when_every_entry_says_so(name: str) -> None:
    mask = MASKS[name]
    rows, columns = mask.shape[-2:]
    assert is_causal_mask(mask, rows, columns) == reference(mask, rows, columns)


@pytest.mark.parametrize("name", [name for name in MASKS if MASKS[name].shape[-2:] == (5, 5)])
def test_whatever_the_mask_is_the_result_is_that_of_the_written_out_form(name: str) -> None:
    model, given = fused(causal(6)), operands(5, 5, seed=1)
    mask = MASKS[name].float() if MASKS[name].dtype == torch.bfloat16 else MASKS[name]
    mask = (
        mask.clamp_min(torch.finfo(torch.float32).min)
        if name in ("diagonal hidden too", "padding in one row")
        else mask
    )
    torch.testing.assert_close(model(*given, mask), Block()(*given, mask), atol=1e-5, rtol=1e-5)


def test_the_causal_kernel_runs_for_the_causal_mask_and_for_no_other() -> None:
    model, given = fused(causal(6)), operands(5, 5)
    for name in ("minus infinity", "nothing hidden", "a bias below the diagonal"):
        with counted_skips() as skips:
            model(*given, MASKS[name])
        assert skips == [1 if name == "minus infinity" else 0], name


def test_one_new_row_against_a_longer_cache_sees_all_of_it() -> None:
    model, given = fused(causal(6)), operands(1, 9)
    mask = torch.zeros(1, 9)
    torch.testing.assert_close(model(*given, mask), Block()(*given, mask), atol=1e-5, rtol=1e-5)


def test_without_a_causal_mask_in_the_example_it_is_refused_with_the_reason() -> None:
    with pytest.raises(StrategyUnsupported, match="no attention of the example has the causal mask"):
        fused(torch.zeros(6, 6))


def test_it_is_refused_together_with_compiling_and_says_why() -> None:
    with pytest.raises(InvalidInput, match="breaks a compiled graph"):
        check_recipe({"attention_fusion": "sdpa_causal", "kernel_fusion": "compile"})


def test_a_mask_that_is_written_to_is_looked_at_again() -> None:
    mask = causal(5)
    assert looks_causal(mask, 5, 5) and looks_causal(mask[:], 5, 5)
    mask[:, 0] = float("-inf")
    assert not looks_causal(mask, 5, 5) and not looks_causal(mask[:], 5, 5)
    mask[:, 0] = 0
    assert looks_causal(mask, 5, 5)


def test_layers_that_share_a_mask_share_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    module = "hybrid_core.strategies.attention.causal_kernel.is_causal_mask"
    monkeypatch.setattr(module, lambda *a: looks.append(1) or is_causal_mask(*a))
    shared = causal(5)[None, None]
    for _ in range(4):
        assert looks_causal(shared[..., :5], 5, 5)
    assert len(looks) == 1
    assert not looks_causal(torch.zeros(5, 5), 5, 5) and looks_causal(causal(5), 5, 5)
    with torch.inference_mode():
        frozen = causal(5)
        assert looks_causal(frozen, 5, 5)
        frozen.zero_()
        assert not looks_causal(frozen, 5, 5)
