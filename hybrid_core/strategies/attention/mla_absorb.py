"""`mla_absorb`: multi-head latent attention decodes from its compressed cache without expanding it.

The module keeps everything but the step from latents to keys and values, which moves into its core. Two spellings are
known by their structure: one that hands latents to a method `_keys_and_values` and the result to `core`, and that of
`transformers`, whose cache holds latents since version 5 and expanded keys before. One module of each class and size
is proven equal on calls of the example. Source: DeepSeek-V2, section 2.1.2 (arXiv 2405.04434).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.absorbed_core import AbsorbedCore, LatentSizes
from hybrid_core.strategies.attention.absorbed_transformers import (
    absorb_transformers_attention,
    is_transformers_attention,
    layers_of_its_own,
    transformers_sizes,
)
from hybrid_core.strategies.base import Applied, Method, Setting, Situation, list_briefly, run_example, tensors_in

CHILDREN = ("query", "compress", "latent_norm", "expand", "output", "core")
PROVEN_CALLS = 2  # the context and the first token after it


def latent_attentions(model: nn.Module) -> dict[str, nn.Module]:
    """Every module whose structure is that of latent attention, by name."""
    return {n: m for n, m in model.named_modules() if _is_plain_spelling(m) or is_transformers_attention(m)}


def refuse_mla_absorb(model: nn.Module, situation: Situation) -> str | None:
    """The cheap reasons why nothing can be absorbed."""
    found = latent_attentions(model)
    if not found:
        return "no multi-head latent attention was found (keys and values expanded from one cached latent vector)"
    for name, module in found.items():
        own = layers_of_its_own(module) if is_transformers_attention(module) else []
        if own:
            return f"'{name}' has layers that the absorbed form does not know ({list_briefly(own)}) and would skip"
        expand = module.expand if _is_plain_spelling(module) else module.kv_b_proj
        if type(expand) is not nn.Linear or expand.bias is not None:
            return f"the expanding layer of '{name}' is a {type(expand).__name__} or has a bias; it must be nn.Linear"
    return None


def use_mla_absorb(model: nn.Module, situation: Situation) -> Applied:
    """Absorb in every latent attention; raises where the result differs or where no call is short enough to gain."""
    found = latent_attentions(model)
    different = {(type(module), _sizes(module)): module for module in reversed(found.values())}
    recorded = _record(model, situation, list(different.values()))
    for module in found.values():
        _absorb(module)
    for module, seen in recorded:
        _prove(module, seen)
    cores = [m for m in model.modules() if isinstance(m, AbsorbedCore)]
    absorbed, calls = _count_absorbed(model, situation, cores)
    if not absorbed:
        raise StrategyUnsupported(
            "every call of the example reads so many tokens at once that expanding them is cheaper than absorbing; "
            "use sdpa, or choose a decode"
        )
    sizes = cores[0].sizes
    return Applied(model, (_change(list(found), sizes), _choice(sizes, absorbed, calls)))


def _change(names: list[str], sizes: LatentSizes) -> str:
    return (
        f"{len(names)} latent attentions ({list_briefly(names)}) attend to cached latents of {sizes.latent} + "
        f"{sizes.rope} numbers per token without expanding them; keys and values of all heads would be "
        f"{sizes.cached_ratio:.1f} times as many"
    )


def _choice(sizes: LatentSizes, absorbed: int, calls: int) -> str:
    return (
        f"absorbed in {absorbed} of {calls} attention calls of the example; a call with so many new tokens that "
        "expanding takes fewer multiplications expands as before, and then runs scaled_dot_product_attention"
    )


def _is_plain_spelling(module: nn.Module) -> bool:
    children = all(isinstance(module._modules.get(name), nn.Module) for name in CHILDREN)
    widths = getattr(module, "widths", None)
    sizes = all(isinstance(getattr(widths, n, None), int) for n in ("heads", "latent", "plain", "rope", "value"))
    return children and sizes and callable(getattr(module, "_keys_and_values", None))


def _sizes(module: Any) -> LatentSizes:
    if is_transformers_attention(module):
        return transformers_sizes(module)
    w = module.widths
    return LatentSizes(w.heads, w.latent, w.plain, w.rope, w.value)


def _absorb(module: nn.Module) -> None:
    owner: Any = module
    sizes = _sizes(module)
    if is_transformers_attention(module):
        owner.core = AbsorbedCore(owner.kv_b_proj.weight, sizes, float(owner.scaling))
        del owner.kv_b_proj
        owner.forward = MethodType(absorb_transformers_attention, module)
        return
    owner.core = AbsorbedCore(owner.expand.weight, sizes, (sizes.plain + sizes.rope) ** -0.5)
    del owner.expand
    owner._keys_and_values = keep_latents


def keep_latents(latent: Tensor, rope_key: Tensor) -> tuple[Tensor, Tensor]:
    """What replaces the expansion: the core takes the latents as they are."""
    return latent, rope_key


Recorded = list[tuple[tuple[Any, ...], dict[str, Any], Any]]


def _record(model: nn.Module, situation: Situation, modules: list[nn.Module]) -> list[tuple[nn.Module, Recorded]]:
    """The first calls of each module with what it returned; caches as they were before the call."""
    recorded: list[tuple[nn.Module, Recorded]] = [(module, []) for module in modules]
    handles = [handle for module, calls in recorded for handle in _watch(module, calls)]
    try:
        run_example(model, situation)
    finally:
        for handle in handles:
            handle.remove()
    return recorded


def _watch(module: nn.Module, calls: Recorded) -> tuple[Any, Any]:
    given: list[tuple[Any, Any]] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(calls) < PROVEN_CALLS:
            given.append(pytree.tree_map(_as_it_is_now, (args, kwargs)))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if len(calls) < PROVEN_CALLS:
            calls.append((*given[-1], output))

    return module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)


def _as_it_is_now(value: Any) -> Any:
    return value if isinstance(value, Tensor | int | float | str | None) else copy.deepcopy(value)


def _prove(module: nn.Module, calls: Recorded) -> None:
    for args, kwargs, expected in calls:
        core: Any = module.core
        for form in (core.absorbed, core.expanded):
            again_args, again_kwargs = pytree.tree_map(_as_it_is_now, (args, kwargs))
            found = _run_with(module, core, form, again_args, again_kwargs)
            one, other = tensors_in(expected)[0], tensors_in(found)[0]
            error = float((one - other).double().norm() / (one.double().norm() + 1e-30))
            if one.shape != other.shape or not error <= _tolerance(one.dtype):
                raise StrategyUnsupported(
                    f"{type(module).__name__} answers differently with absorbed weights (relative error {error:.1e}), "
                    "so it computes something else than latent attention"
                )


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-4 if dtype in (torch.float32, torch.float64) else 5e-2


def _run_with(module: nn.Module, core: nn.Module, form: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run the module with one form of its core."""
    owner: Any = core
    owner.forward = form
    try:
        with torch.no_grad():
            return module(*args, **kwargs)
    except Exception as error:  # a module with the same layers may be called in a way of its own
        first = (str(error).splitlines() or [""])[0]
        raise StrategyUnsupported(
            f"{type(module).__name__} cannot run on cached latents ({type(error).__name__}: {first})"
        ) from error
    finally:
        del owner.forward


def _count_absorbed(model: nn.Module, situation: Situation, cores: list[AbsorbedCore]) -> tuple[int, int]:
    """How many of the attention calls of one example were absorbed."""
    choices: list[bool] = []

    def note(core: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(core, AbsorbedCore)
        choices.append(core.sizes.absorbing_is_cheaper(args[0].shape[2], args[1].shape[2]))

    handles = [core.register_forward_pre_hook(note) for core in cores]
    try:
        run_example(model, situation)
    finally:
        for handle in handles:
            handle.remove()
    return sum(choices), len(choices)


MLA_ABSORB = Method(
    Setting(
        name="mla_absorb",
        sentence="Latent attention decodes from its compressed cache; keys and values are never expanded.",
        stage=12,
        exact=True,
        expected_cost_s=1.0,
        references=("https://arxiv.org/abs/2405.04434", "https://arxiv.org/abs/2412.19437"),
    ),
    apply=use_mla_absorb,
    unsupported=refuse_mla_absorb,
)
