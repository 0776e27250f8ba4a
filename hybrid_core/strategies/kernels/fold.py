"""Folds constants into weights: batch norms into the layer before them, norm scales into the layers after them.

A batch norm in eval mode is a scale and a shift per channel, which a convolution or linear layer can carry in its own
weights. The scale of a LayerNorm or RMSNorm can be carried by the linear layers that read it, when nothing else does.
What is left of the norm is proven, by numbers, to be the plain norm, and becomes the library's. Sources: Jacob et al.
2018, section 3.2 (arXiv 1712.05877); the norm case as in Ashkboos et al. 2024 (arXiv 2404.00456).
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import (
    Applied,
    Method,
    Setting,
    Situation,
    list_briefly,
    replace_submodule,
    run_example,
    tensors_in,
)
from hybrid_core.strategies.kernels.consumers import parameter_owners, watch_readers

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_constants(model: nn.Module, situation: Situation) -> Applied:
    """Fold all that the example proves foldable; raises when there is nothing."""
    before = run_example(model, situation)
    batch_norms = _fold_batch_norms(model, situation)
    norms = _fold_norms(model, situation)
    if not batch_norms and not norms:
        raise StrategyUnsupported(
            "nothing can be folded: no batch norm is the only reader of a convolution or linear layer, and no norm "
            "with a scale is read by nn.Linear layers only"
        )
    _check_close(before, run_example(model, situation))
    changes = []
    if batch_norms:
        changes.append(f"folded {len(batch_norms)} batch norms into the layer before ({list_briefly(batch_norms)})")
    if norms:
        changes.append(f"folded the scale of {len(norms)} norms into the layers after ({list_briefly(norms)})")
    return Applied(model, tuple(changes))


def _fold_batch_norms(model: nn.Module, situation: Situation) -> list[str]:
    layers: set[nn.Module] = {m for m in model.modules() if type(m) in (*CONVOLUTIONS, nn.Linear)}
    norms: set[nn.Module] = {m for m in model.modules() if type(m) in BATCH_NORMS and m.track_running_stats}
    if not layers or not norms:
        return []
    found = watch_readers(model, situation, layers, norms)
    owners, names, folded = parameter_owners(model), _names(model), []
    for layer in layers:
        readers = found.only(layer)
        if len(readers) != 1 or found.calls[layer] != found.calls[readers[0]] or _is_tied(layer, owners):
            continue
        norm = readers[0]
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
        if type(layer) is nn.Linear and found.example_output[layer].dim() != 2:
            continue  # the channels of a batch norm are dimension 1, the features of a linear layer the last
        fused = fuse_linear_bn_eval(layer, norm) if isinstance(layer, nn.Linear) else fuse_conv_bn_eval(layer, norm)  # type: ignore[type-var]
        replace_submodule(model, names[layer], fused)
        replace_submodule(model, names[norm], nn.Identity())
        folded.append(names[norm])
    return sorted(folded)


def _fold_norms(model: nn.Module, situation: Situation) -> list[str]:
    norms = {m: plain for m in model.modules() if (plain := plain_norm(m)) is not None}
    linears: set[nn.Module] = {m for m in model.modules() if type(m) is nn.Linear}
    if not norms or not linears:
        return []
    found = watch_readers(model, situation, set(norms), linears)
    owners, names, folded = parameter_owners(model), _names(model), []
    for norm, plain in norms.items():
        readers = found.only(norm)
        if not readers or _is_tied(norm, owners) or any(_is_tied(r, owners) for r in readers):
            continue
        for reader in readers:
            _absorb(reader, norm)
        if names[norm] == "":
            continue
        replace_submodule(model, names[norm], plain)
        folded.append(names[norm])
    return sorted(folded)


def plain_norm(module: nn.Module) -> nn.Module | None:
    """The library's norm without scale that, times weight plus bias, is this module; None where that is not proven."""
    weight = module._parameters.get("weight")
    if weight is None or weight.dim() != 1 or not set(module._parameters) <= {"weight", "bias"} or module._modules:
        return None
    if type(module) in BATCH_NORMS or any(b is not None for b in module._buffers.values()):
        return None
    width = weight.shape[0]
    for eps in _eps_of(module):
        for plain in (
            nn.LayerNorm(width, eps, elementwise_affine=False),
            nn.RMSNorm(width, eps, elementwise_affine=False),
        ):
            if _is_same(module, plain, width):
                return plain.to(weight.device)
    return None


def _eps_of(module: nn.Module) -> list[float]:
    named = [v for k, v in vars(module).items() if "eps" in k.lower() and isinstance(v, float)]
    return named[:2]


def _is_same(module: nn.Module, plain: nn.Module, width: int) -> bool:
    """Compare on inputs of three magnitudes, the smallest of which makes a wrong eps visible."""
    weight, bias = module._parameters["weight"], module._parameters.get("bias")
    assert weight is not None, "plain_norm asked for it"
    generator = torch.Generator().manual_seed(0)
    for magnitude in (1e-3, 1.0, 30.0):
        x = (magnitude * torch.randn(3, 5, width, generator=generator)).to(weight.device, weight.dtype)
        try:
            with torch.no_grad():
                found, scaled = module(x), plain(x) * weight.detach()
        except Exception:  # a module that does not take one tensor is no norm
            return False
        expected = scaled if bias is None else scaled + bias.detach()
        if not isinstance(found, Tensor) or found.shape != x.shape or found.dtype != x.dtype:
            return False
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max() + 1e-12)):
            return False
    return True


def _absorb(reader: nn.Module, norm: nn.Module) -> None:
    """W' = W diag(scale), b' = b + W shift; written into the same parameter, which other text may hold."""
    assert isinstance(reader, nn.Linear)
    scale, shift = norm._parameters["weight"], norm._parameters.get("bias")
    assert scale is not None
    with torch.no_grad():
        if shift is not None:
            added = reader.weight @ shift
            if reader.bias is None:
                reader.bias = nn.Parameter(added, requires_grad=reader.weight.requires_grad)
            else:
                reader.bias.add_(added)
        reader.weight.mul_(scale)


def _is_tied(module: nn.Module, owners: Counter[int]) -> bool:
    return any(owners[id(p)] > 1 for p in module._parameters.values() if p is not None)


def _names(model: nn.Module) -> dict[nn.Module, str]:
    return {module: name for name, module in model.named_modules()}


def _check_close(before: object, after: object) -> None:
    for one, other in zip(tensors_in(before), tensors_in(after), strict=True):
        bound = 1e-3 * float(one.abs().max())
        if one.shape != other.shape or not float((one - other).abs().max()) <= bound:
            raise StrategyUnsupported(
                "folding changes the outputs by more than rounding, so the layers are not what they seem"
            )


FOLD = Method(
    Setting(
        name="fold",
        sentence="Batch norms are folded into the convolutions and layers before them, norm scales into the next.",
        stage=20,
        exact=True,
        expected_cost_s=1.5,
        references=("https://arxiv.org/abs/1712.05877",),
    ),
    apply=fold_constants,
)
