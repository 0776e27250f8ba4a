"""`library_sdpa`: a model of the transformers library is asked to use its own fused attention.

The library ships every attention twice, written out ("eager") and fused ("sdpa"), and a model brings the method that
switches between them. That keeps the library's own treatment of masks and caches, so it also reaches layers that no
exporter takes whole. Whether it really switched is not believed: the fused calls of the example are counted before and
after. Source: transformers, `PreTrainedModel.set_attn_implementation`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.search import count_fused_calls
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly, run_example

WANTED = "sdpa"
FUSED_ALREADY = ("sdpa", "flash", "flex", "paged")


def switchable(model: nn.Module) -> dict[str, Any]:
    """Name to module, for the outermost modules that can be asked to change their attention."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        inside = any(outer == "" or name.startswith(f"{outer}.") for outer in found)
        if not inside and callable(getattr(module, "set_attn_implementation", None)):
            found[name] = module
    return found


def implementation(module: Any) -> str:
    """The name of the attention that a module of the library uses now; '' where it does not say."""
    return str(getattr(getattr(module, "config", None), "_attn_implementation", None) or "")


def _unsupported(model: nn.Module, situation: Situation) -> str | None:
    del situation
    found = switchable(model)
    if not found:
        return (
            "no part of the model has set_attn_implementation, the switch of transformers models; use sdpa, which "
            "rewrites any module"
        )
    used = sorted({implementation(module) for module in found.values()})
    if all(name.startswith(FUSED_ALREADY) for name in used):
        return f"the model already runs the library's attention '{', '.join(used)}', which is fused"
    return None


def _apply(model: nn.Module, situation: Situation) -> Applied:
    before = count_fused_calls(lambda: run_example(model, situation))
    found = {n: m for n, m in switchable(model).items() if not implementation(m).startswith(FUSED_ALREADY)}
    old = sorted({implementation(module) for module in found.values()})
    for name, module in found.items():
        try:
            module.set_attn_implementation(WANTED)
        except (ValueError, ImportError, NotImplementedError) as error:
            raise StrategyUnsupported(
                f"{type(module).__name__} cannot be switched to '{WANTED}' ({str(error).splitlines()[0]})"
            ) from error
        if implementation(module) != WANTED:
            raise StrategyUnsupported(
                f"{type(module).__name__} {name} still has attention '{implementation(module)}' after the switch"
            )
    gained = count_fused_calls(lambda: run_example(model, situation)) - before
    if gained <= 0:
        raise StrategyUnsupported(
            f"the switch from '{', '.join(old)}' to '{WANTED}' added no fused call in the example; use sdpa"
        )
    kinds = list_briefly([type(module).__name__ for module in found.values()])
    return Applied(
        model,
        (
            f"switched {kinds} from the attention '{', '.join(old)}' to '{WANTED}' of its library; one example call "
            f"now makes {gained} more fused calls than before",
        ),
    )


LIBRARY_SDPA = Method(
    Setting(
        name="library_sdpa",
        sentence="A model of transformers is switched to the library's own fused attention.",
        stage=10,
        exact=True,
        expected_cost_s=0.5,
        references=("https://huggingface.co/docs/transformers/attention_interface",),
    ),
    apply=_apply,
    unsupported=_unsupported,
)
