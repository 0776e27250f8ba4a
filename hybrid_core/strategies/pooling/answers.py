"""Remembered answers of a model: what was asked, bit for bit, what was answered, and how the model stood then.

A question is found by a hash of its bytes and then compared whole, so that a collision cannot answer wrongly. How the
model stands is read from the version counters of its weights and its plain attributes before every look-up; when
anything moved, all answers are forgotten. Source: memoization, Michie 1968 (Nature 218, 19-22).
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of_all
from torch.utils import _pytree as pytree

PLAIN = (bool, int, float, str, type(None))
OWN_NAME = "answer_cache"
_EVERY_MODULE_HAS = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass(frozen=True)
class Question:
    """The arguments of one call: `form` is everything but the bytes of `tensors`."""

    form: tuple[Any, ...]
    tensors: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(t.nbytes for t in self.tensors)

    def key(self) -> str:
        """A hash of the form and of all bytes."""
        digest = hashlib.blake2b(repr(self.form).encode(), digest_size=16)
        for tensor in self.tensors:
            digest.update(_bytes_of(tensor).cpu().numpy().data)
        return digest.hexdigest()

    def is_same(self, other: Question) -> bool:
        """Equal form and equal bits; NaN equals itself, 0.0 does not equal -0.0."""
        if self.form != other.form:
            return False
        pairs = zip(self.tensors, other.tensors, strict=True)
        return all(torch.equal(_bytes_of(a), _bytes_of(b)) for a, b in pairs)

    def copy(self) -> Question:
        """The same in memory of its own."""
        return Question(self.form, tuple(t.detach().clone() for t in self.tensors))


def read_question(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Question | None:
    """None where an argument cannot be compared by its content: a cache, an object, a sparse or quantized tensor."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors: list[Tensor] = []
    form: list[tuple[Any, ...]] = []
    for leaf in leaves:
        if _is_comparable(leaf):
            tensors.append(leaf)
            form.append((str(leaf.dtype), tuple(leaf.shape), leaf.stride(), str(leaf.device)))
        elif type(leaf) in PLAIN:
            form.append((type(leaf).__name__, repr(leaf)))
        else:
            return None
    device = tensors[0].device.type if tensors else "cpu"
    modes = (torch.is_autocast_enabled(device), str(torch.get_autocast_dtype(device)), str(torch.get_default_dtype()))
    return Question((str(spec), *form, *modes), tuple(tensors))


def read_standing(model: nn.Module) -> tuple[Any, ...] | None:
    """What an answer depends on besides the question; None where that cannot be told or somebody watches the call."""
    if hooks_of_all._global_forward_hooks or hooks_of_all._global_forward_pre_hooks:
        return None
    found: list[Any] = []
    for module in model.modules():
        if module.training or any(getattr(module, name) for name in _HOOKS):
            return None
        found.append(type(module))
        for value in _values_of(module):
            if isinstance(value, Tensor) and value.is_inference():
                return None  # writes into it are not counted
            found.append(_mark(value))
    return tuple(found)


class AnswerCache:
    """At most `entries` answers and `limit` bytes, least recently used out first; `hits` and `misses` are counted."""

    def __init__(self, entries: int, limit: int) -> None:
        self.entries, self.limit = entries, limit
        self.hits = self.misses = self.nbytes = 0
        self._standing: tuple[Any, ...] | None = None
        self._held: OrderedDict[str, tuple[Question, list[Any], Any]] = OrderedDict()
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> AnswerCache:
        return AnswerCache(self.entries, self.limit)  # a copy's weights count their versions anew

    def __reduce__(self) -> tuple[Any, ...]:
        return AnswerCache, (self.entries, self.limit)

    def __len__(self) -> int:
        return len(self._held)

    def forget(self) -> None:
        """Drop all answers; needed after writes that PyTorch does not count (through `.data` or NumPy)."""
        with self._lock:
            self._held.clear()
            self.nbytes = 0

    def look_up(self, key: str, question: Question, standing: tuple[Any, ...]) -> tuple[bool, Any]:
        """(True, a copy of the answer) where this was asked before and nothing has moved since."""
        with self._lock:
            if standing != self._standing:
                self.forget()
                self._standing = standing
            entry = self._held.get(key)
            if entry is None or not entry[0].is_same(question):
                self.misses += 1
                return False, None
            self._held.move_to_end(key)
            self.hits += 1
            return True, pytree.tree_unflatten(_copied(entry[1]), entry[2])

    def keep(self, key: str, question: Question, standing: tuple[Any, ...], answer: Any) -> None:
        """Remember copies of both, unless the answer holds anything but tensors and plain values or is too large."""
        leaves, spec = pytree.tree_flatten(answer)
        if not all(_is_comparable(leaf) or type(leaf) in PLAIN for leaf in leaves):
            return
        size = question.nbytes + sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
        with self._lock:
            if size > self.limit or standing != self._standing:
                return
            self._drop(key)
            self._held[key] = (question, _copied(leaves), spec)
            self.nbytes += size
            while len(self._held) > self.entries or self.nbytes > self.limit:
                self._drop(next(iter(self._held)))

    def _drop(self, key: str) -> None:
        if key in self._held:
            question, leaves, _ = self._held.pop(key)
            self.nbytes -= question.nbytes + sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))


class _Same:
    """Equal only to itself; it keeps the object, so that no other can get its identity."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.held is other.held

    __hash__ = None  # type: ignore[assignment]


def _mark(value: Any) -> Any:
    """What changes when the value does: a tensor's version, the content of plain lists, the identity of the rest."""
    if isinstance(value, Tensor):
        return weakref.ref(value), 0 if value.is_inference() else value._version, _address(value)
    if type(value) in PLAIN:
        return type(value), value
    if type(value) in (list, tuple):
        return tuple(_mark(item) for item in value)
    if type(value) is dict:
        return tuple((key, _mark(item)) for key, item in value.items())
    return _Same(value)


def _values_of(module: nn.Module) -> Iterator[Any]:
    yield from module._parameters.values()
    yield from module._buffers.values()
    for name, value in vars(module).items():
        if name not in _EVERY_MODULE_HAS and name != OWN_NAME:
            yield value


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr() if tensor.layout is torch.strided and type(tensor) in (Tensor, nn.Parameter) else 0


def _is_comparable(leaf: Any) -> bool:
    plain = type(leaf) in (Tensor, nn.Parameter) and leaf.layout is torch.strided
    return plain and not leaf.is_quantized and not leaf.is_conj() and not leaf.is_neg() and leaf.device.type != "meta"


def _bytes_of(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().reshape(-1)
    return (torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat).view(torch.uint8)


def _copied(leaves: list[Any]) -> list[Any]:
    return [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
