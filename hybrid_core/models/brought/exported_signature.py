"""What an exported program takes and gives, read from its signature.

Parameters, buffers and constants are inputs of the graph too; the rest are the user's. A program that changes its own
buffers or inputs is refused: two calls of it would differ for a reason that no strategy brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid_core.errors import InvalidInput
from hybrid_core.models.brought.exported_arguments import read_argument, single
from hybrid_core.models.brought.exported_graph import Signature, lookup
from hybrid_core.models.brought.exported_tensors import check_meta
from hybrid_core.models.brought.input_specs import WHOLE, InputSpec, checked_shape
from hybrid_core.models.brought.strict_json import is_whole

MAX_ENTRIES = 100_000
_HELD = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
# Operations that only rearrange or copy: an index that goes through them is still the same index.
_REARRANGING = frozenset(
    """view reshape unsqueeze squeeze transpose permute expand clone alias slice select to _to_copy contiguous flatten
    detach t _unsafe_view narrow""".split()
)


def read_signature(module: Any) -> Signature:
    """The signature of the JSON's `graph_module`."""
    signature = module.get("signature") if isinstance(module, dict) else None
    if not isinstance(signature, dict) or not isinstance(module.get("graph"), dict):
        raise InvalidInput("the program has no graph with a signature; export it again with this PyTorch")
    inputs: list[str] = []
    held: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for entry in _entries(signature.get("input_specs")):
        kind, spec = single(entry, "an input")
        if kind in _HELD and isinstance(spec, dict):
            held[_tensor_name(spec.get("arg"))] = _text(spec.get(_HELD[kind]))
        elif kind == "constant_input" and isinstance(spec, dict):
            constants[_text(spec.get("name"))] = read_argument(spec.get("value"), lookup({}))
        elif kind == "user_input" and isinstance(spec, dict):
            _add_user_input(spec.get("arg"), inputs)
        else:
            raise InvalidInput(f"the program has an input of kind {kind!r:.40}; only tensors are read")
    if not inputs or len({*inputs, *held, *constants}) != len(inputs) + len(held) + len(constants):
        raise InvalidInput("the program takes no tensor or names an input twice; export a module that takes one")
    return Signature(tuple(inputs), held, constants, _outputs(signature.get("output_specs")))


def input_specs(graph: Mapping[str, Any], signature: Signature) -> tuple[InputSpec, ...]:
    """Dtype, sizes and, where an embedding tells it, the range of every user input."""
    metas = graph.get("tensor_values")
    if not isinstance(metas, dict):
        raise InvalidInput("the program describes no tensors; export it again")
    specs = []
    for place, name in enumerate(signature.inputs):
        what = f"input {place} of the program"
        meta = metas.get(name)
        dtype = str(check_meta(meta, what)).removeprefix("torch.")
        assert isinstance(meta, dict)
        shape = checked_shape([_size(size, what) for size in _entries(meta.get("sizes"))], what)
        bound = _embedding_rows(graph, name, metas) if dtype in WHOLE else None
        specs.append(InputSpec(dtype, shape, None if bound is None else 0, bound))
    return tuple(specs)


def _size(size: Any, what: str) -> Any:
    """A constant size, or the one a dynamic size had in the export."""
    kind, value = single(size, "a size")
    if kind == "as_int":
        return value
    hint = value.get("hint") if isinstance(value, dict) else None
    if not isinstance(hint, dict) or not is_whole(hint.get("as_int")):
        raise InvalidInput(f"{what} has a size that depends on other values; export it with sizes that are known")
    return hint["as_int"]


def _embedding_rows(graph: Mapping[str, Any], name: str, metas: Mapping[str, Any]) -> int | None:
    """Rows of the smallest embedding that this input indexes, however it was rearranged before."""
    same, rows = {name}, []
    for node in _entries(graph.get("nodes")):
        parts = str(node.get("target")).split(".") if isinstance(node, dict) else []
        operation = parts[3] if len(parts) == 5 and parts[:3] == ["torch", "ops", "aten"] else ""
        inputs = (
            {str(e.get("name")): e.get("arg") for e in _entries(node.get("inputs")) if isinstance(e, dict)}
            if parts
            else {}
        )
        if operation == "embedding" and _name_or_none(inputs.get("indices")) in same:
            weight = metas.get(_name_or_none(inputs.get("weight")) or "")
            sizes = _entries(weight.get("sizes")) if isinstance(weight, dict) else []
            rows += [_size(size, "an embedding") for size in sizes[:1]]
        elif operation in _REARRANGING and _name_or_none(inputs.get("self", inputs.get("input"))) in same:
            same.update(found for o in _entries(node.get("outputs")) if (found := _name_or_none(o)) is not None)
    return min(rows, default=None)


def _outputs(specs: Any) -> tuple[dict[str, Any], ...]:
    found = []
    for entry in _entries(specs):
        kind, spec = single(entry, "an output")
        if kind != "user_output" or not isinstance(spec, dict):
            raise InvalidInput(
                f"the program has an output of kind {kind!r:.40}; it may not change its buffers or inputs: call eval() "
                "before torch.export.export"
            )
        found.append(dict([single(spec.get("arg"), "an output")]))
    return tuple(found)


def _add_user_input(argument: Any, inputs: list[str]) -> None:
    kind, _ = single(argument, "an input")
    if kind == "as_tensor":
        inputs.append(_tensor_name(argument))
    elif kind not in ("as_none", "as_int", "as_float", "as_bool", "as_string"):
        raise InvalidInput(f"the program takes an input of kind {kind!r:.40}; only tensors and fixed values are read")


def _tensor_name(argument: Any) -> str:
    value = argument.get("as_tensor", argument) if isinstance(argument, dict) else None
    return _text(value.get("name") if isinstance(value, dict) else None)


def _name_or_none(argument: Any) -> str | None:
    value = argument.get("as_tensor") if isinstance(argument, dict) else None
    name = value.get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 1_000:
        raise InvalidInput(f"the program has {value!r:.60} where a name is needed; export it again")
    return value


def _entries(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_ENTRIES * 2:
        raise InvalidInput(f"the program has {value!r:.60} where a list is needed; export it again")
    return value
