"""An object that a module is called with and that no exporter takes, such as a cache: its one call is cut out.

The module is run once on a copy, and what it asks the object is recorded. For the export a stand-in gives the recorded
answer as further inputs, and what was handed over becomes further outputs; in the finished graph these are one call of
the real object again, in its place. What the object answers has sizes that nobody knows before; they are tested right
after the call, and a caller that meets other ones goes on with another form without calling the object twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.attention.scores import op_name, sizes_equal

PLAIN = (int, float, complex, str, type(None), torch.dtype, torch.device, slice)


def is_held_object(leaf: Any) -> bool:
    """True for an input that is neither a tensor nor a value that an export may fix."""
    return not isinstance(leaf, (Tensor, *PLAIN))


@dataclass
class Asked:
    """What a module asked the object: the calls with their answers, and the plain attributes it read."""

    calls: list[tuple[str, Any, Any]] = field(default_factory=list)
    read: dict[str, Any] = field(default_factory=dict)

    @property
    def returned(self) -> list[Tensor]:
        """The tensors among the answers."""
        return [leaf for _, _, out in self.calls for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]


class _Disguised:
    """Passes isinstance checks for the class of the object it stands for; asks `_ask` for everything else."""

    def __init__(self, kind: type, ask: Callable[[str], Any]) -> None:
        self.__dict__.update(_kind=kind, _ask=ask)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self.__dict__["_kind"]

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["_ask"](name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise StrategyUnsupported(f"the module sets '{name}' of its {self._kind.__name__}, which a rewrite would lose")


def recorder(held: Any) -> tuple[Any, Asked]:
    """A stand-in around a copy of `held` that keeps what it is asked."""
    asked, own = Asked(), copy.deepcopy(held) if not isinstance(held, Answered) else held

    def ask(name: str) -> Any:
        value = getattr(own, name)
        if not callable(value):
            asked.read[name] = value
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            out = value(*args, **kwargs)
            asked.calls.append((name, (args, kwargs), out))
            return out

        return call

    return _Disguised(own.kind if isinstance(own, Answered) else type(own), ask), asked


def refuse_what_cannot_be_cut(asked: Asked, held: Any) -> None:
    """At most one call and plain, unchanging facts can be cut out."""
    kind = type(held).__name__
    if len(asked.calls) > 1:
        raise StrategyUnsupported(f"the module calls its {kind} {len(asked.calls)} times; only one call can be cut out")
    changing = [name for name, value in asked.read.items() if not isinstance(value, bool | str | None)]
    if changing:
        raise StrategyUnsupported(f"the module reads '{changing[0]}' of its {kind}, which may change from call to call")


def stand_in(asked: Asked, held: Any, returned: list[Any], handed: list[Any]) -> Any:
    """What takes the object's place during the export: answers `returned` and notes in `handed` what it was given."""
    name, _, out = asked.calls[0]
    leaves, spec = pytree.tree_flatten(out)
    rest = iter(returned)
    answer = pytree.tree_unflatten([next(rest) if isinstance(x, Tensor) else x for x in leaves], spec)

    def call(*args: Any, **kwargs: Any) -> Any:
        handed.extend(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return answer

    def ask(wanted: str) -> Any:
        if wanted == name:
            return call
        if wanted in asked.read:
            return asked.read[wanted]
        raise StrategyUnsupported(f"the module asks its {type(held).__name__} for '{wanted}' only sometimes")

    return _Disguised(held.kind if isinstance(held, Answered) else type(held), ask)


class OtherSizes(Exception):  # noqa: N818
    """The object was called and answered with sizes that this form is not valid for; `answered` goes on from there."""

    def __init__(self, answered: Answered) -> None:
        super().__init__("the held object answered with other sizes")
        self.answered = answered


class Answered:
    """An object whose one call was made already: gives the answer again instead of calling."""

    def __init__(self, held: Any, name: str, answer: Any) -> None:
        self.held, self.name, self.answer, self.kind = held, name, answer, type(held)

    def __getattr__(self, name: str) -> Any:
        if name == self.__dict__.get("name"):
            return lambda *args, **kwargs: self.answer
        return getattr(self.__dict__["held"], name)


def _asking(fits: Callable[..., bool]) -> Callable[..., list[Tensor]]:
    def ask_held(held: Any, name: str, args: Any, kwargs: Any, inputs: list[Any]) -> list[Tensor]:
        """The call in its place: the tensors of the answer, or `OtherSizes` when the rest is not valid for them."""
        answer = getattr(held, name)(*args, **kwargs)
        tensors = [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, Tensor)]
        if not fits(*inputs, *tensors):
            raise OtherSizes(held if isinstance(held, Answered) else Answered(held, name, answer))
        return tensors

    return ask_held


def put_call_in_place(
    graph: Graph, asked: Asked, inputs: list[Node], returned: list[Node], handed: list[Any], fits: Callable[..., bool]
) -> None:
    """Make `returned`, so far inputs, the answer of one call with `handed`; the object becomes an input."""
    name, given, _ = asked.calls[0]
    _read_sizes_early(inputs, returned)
    late = _dependent(graph, returned)
    early = [node for node in handed if isinstance(node, Node)]
    if any(node in late for node in early):
        raise StrategyUnsupported("what the module hands to its cache follows from what the cache answers")
    order = {node: i for i, node in enumerate(graph.nodes)}
    last = max((*early, *inputs, *returned), key=lambda node: order[node])
    last_input = max((*inputs, *returned), key=lambda node: order[node])
    with graph.inserting_after(last_input):
        held = graph.placeholder("held_object")
    leaves, spec = pytree.tree_flatten(given)
    rest = iter(handed)
    args, kwargs = pytree.tree_unflatten([next(rest) if isinstance(x, Tensor) else x for x in leaves], spec)
    with graph.inserting_after(held if last is last_input else last):
        call = graph.call_function(_asking(fits), (held, name, list(args), dict(kwargs), list(inputs)))
    place = call
    for i, node in enumerate(returned):
        with graph.inserting_after(place):
            place = graph.call_function(_item, (call, i))
        place.meta = dict(node.meta)
        node.replace_all_uses_with(place)
        graph.erase_node(node)
    for node in sorted((n for n in late if order[n] < order[last]), key=lambda n: order[n]):
        place.append(node)
        place = node


def _read_sizes_early(inputs: list[Node], returned: list[Node]) -> None:
    """A size that an input has too is read there; the exporter may read a batch size off the answer."""
    known = [(node, d, size) for node in inputs for d, size in enumerate(node.meta["val"].shape)]
    for node in returned:
        for reader in [n for n in node.users if op_name(n) == "sym_size"]:
            wanted = node.meta["val"].shape[int(reader.args[1])]  # type: ignore[arg-type]
            same = [(source, d) for source, d, size in known if sizes_equal(size, wanted)]
            if same:
                reader.args = same[0]


def _item(values: list[Tensor], index: int) -> Tensor:
    return values[index]


def _dependent(graph: Graph, sources: list[Node]) -> set[Node]:
    """Every node that follows from one of the sources, without them."""
    found: set[Node] = set()
    for node in graph.nodes:
        if any(source in found or source in sources for source in node.all_input_nodes):
            found.add(node)
    return {node for node in found if node.op != "output"}
