"""Judges the program in a `.pt2` file, and writes it again from the parts that are known to run no code.

torch resolves names of operators with `getattr`, evaluates the text of sizes and guards, generates Python code with the
names of values, and imports what a tree specification names. So nothing of the file's JSON is passed on: each value is
checked against the schema of `torch._export.serde.schema` and written again. Left out are metadata of nodes, names of
parameters, tree specifications and guards, which running the program does not need.
"""

from __future__ import annotations

import json
import keyword
import math
import re
from dataclasses import dataclass, field
from typing import Any

from timmx_torch_export.expressions import InvalidExpression, clean_expression, is_symbol
from timmx_torch_export.operators import is_region, is_size_function, is_tensor_operator


class DamagedProgram(Exception):  # noqa: N818 - becomes an ArtifactError
    """The program does not follow the schema."""


class UnsafeProgram(Exception):  # noqa: N818 - becomes an ArtifactError
    """The program has a part that can run code, or that is not known to be harmless."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as the file describes it.

    Attributes:
        dtype: a `ScalarType` of torch's schema.
        sizes: of each dimension; None if it is dynamic.
        content: its JSON, written again.
    """

    dtype: int
    sizes: tuple[int | None, ...]
    content: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program without parts that run code.

    Attributes:
        content: its JSON.
        weights: for each parameter and buffer of the state dict, its name in the file and its new name.
        constants: the same for constants and buffers that are not in the state dict.
        tensors: for each new name, the tensor that the graph expects.
    """

    content: dict[str, Any]
    weights: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, str], ...]
    tensors: dict[str, Tensor]


ELEMENT_BYTES = {
    **dict.fromkeys((1, 2, 12, 29, 30, 31, 32, 33), 1),
    **dict.fromkeys((3, 6, 13, 28), 2),
    **dict.fromkeys((4, 7, 9, 34), 4),
    **dict.fromkeys((5, 8, 10, 35), 8),
    11: 16,
}
"""Size of an element by `ScalarType`."""

BOOL = 12
"""`ScalarType.BOOL`."""

_LARGEST = 2**63 - 1
_LONGEST_STRING = 1000
_DEEPEST_GRAPH = 4
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_POSITIONAL, _KEYWORD = 1, 2
_STRIDED = 7


def clean_program(content: Any) -> Program:
    """Judge the content of `models/model.json`.

    Raises:
        DamagedProgram: it does not follow the schema.
        UnsafeProgram: it has a part that can run code.
    """
    model = _mapping(content, "the program")
    module = _mapping(model.get("graph_module"), "graph_module")
    graph = _mapping(module.get("graph"), "graph")
    tensors = {
        _identifier(name): clean_tensor(value)
        for name, value in _mapping(graph.get("tensor_values"), "tensor_values").items()
    }
    signature = _Signature(values=tensors)
    clean_signature = signature.clean(_mapping(module.get("signature"), "signature"))
    version = _mapping(model.get("schema_version"), "schema_version")
    return Program(
        content={
            "graph_module": {
                "graph": _graph(graph, tensors, 0),
                "signature": clean_signature,
                "module_call_graph": [_call_entry(signature.outputs)],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": {
                "aten": _integer(_mapping(model.get("opset_version"), "opset_version").get("aten"))
            },
            "range_constraints": _ranges(_mapping(model.get("range_constraints"), "range_constraints")),
            "schema_version": {name: _integer(version.get(name)) for name in ("major", "minor")},
            "verifiers": [_verifier(name) for name in _sequence(model.get("verifiers"), "verifiers")],
            "torch_version": "",
            "guards_code": [],
        },
        weights=tuple(signature.weights.items()),
        constants=tuple(signature.constants.items()),
        tensors=signature.state,
    )


def clean_tensor(content: Any) -> Tensor:
    """Judge the description of a tensor, `TensorMeta` in torch's schema.

    Raises:
        DamagedProgram: it does not follow the schema.
        UnsafeProgram: its sizes are not expressions of sizes, or its memory is not strided.
    """
    value = _mapping(content, "a tensor's description")
    dtype = _integer(value.get("dtype"))
    if dtype not in ELEMENT_BYTES:
        raise DamagedProgram(f"a tensor has the unknown element type {dtype}")
    if value.get("layout") != _STRIDED:
        raise UnsafeProgram("a tensor is not stored by strides")
    sizes = [_size(item) for item in _sequence(value.get("sizes"), "sizes")]
    strides = [_size(item) for item in _sequence(value.get("strides"), "strides")]
    if len(sizes) != len(strides) or len(sizes) > 64:
        raise DamagedProgram(f"a tensor has {len(sizes)} sizes and {len(strides)} strides")
    return Tensor(
        dtype=dtype,
        sizes=tuple(size.get("as_int") for size in sizes),
        content={
            "dtype": dtype,
            "sizes": sizes,
            "requires_grad": _boolean(value.get("requires_grad")),
            "device": _device(value.get("device")),
            "strides": strides,
            "storage_offset": _size(value.get("storage_offset")),
            "layout": _STRIDED,
        },
    )


@dataclass(kw_only=True)
class _Signature:
    """What the inputs and outputs of the graph are; parameters and buffers get new names, in their order."""

    values: dict[str, Tensor]
    weights: dict[str, str] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    inputs: int = 0
    outputs: int = 0

    def clean(self, content: dict[str, Any]) -> dict[str, Any]:
        inputs = [self._input(item) for item in _sequence(content.get("input_specs"), "input_specs")]
        outputs = [self._output(item) for item in _sequence(content.get("output_specs"), "output_specs")]
        if self.inputs != 1:
            raise DamagedProgram(f"it has {self.inputs} inputs, and timmx runs programs with one")
        return {"input_specs": inputs, "output_specs": outputs}

    def _input(self, content: Any) -> dict[str, Any]:
        kind, value = _variant(content, "an input")
        value = _mapping(value, "an input")
        if kind == "user_input":
            self.inputs += 1
            return {kind: {"arg": {"as_tensor": _tensor_argument(value.get("arg"), "an input")}}}
        if kind not in ("parameter", "buffer", "tensor_constant"):
            raise UnsafeProgram(f"it has an input of the kind {_shown(kind)}")
        argument = {"name": _identifier(_mapping(value.get("arg"), "an input").get("name"))}
        name = _string(value.get(f"{kind}_name"))
        persistent = kind == "parameter" or (kind == "buffer" and _boolean(value.get("persistent")))
        new_name = self._new_name(name, argument["name"], persistent)
        clean: dict[str, Any] = {"arg": argument, f"{kind}_name": new_name}
        if kind == "buffer":
            clean["persistent"] = persistent
        return {kind: clean}

    def _new_name(self, name: str, argument: str, persistent: bool) -> str:
        names = self.weights if persistent else self.constants
        if name in self.weights or name in self.constants:
            raise DamagedProgram(f"it has two inputs called {_shown(name)}")
        if argument not in self.values:
            raise DamagedProgram(f"its input {argument} has no description")
        new_name = f"tensor_{len(self.weights) + len(self.constants)}"
        names[name], self.state[new_name] = new_name, self.values[argument]
        return new_name

    def _output(self, content: Any) -> dict[str, Any]:
        kind, value = _variant(content, "an output")
        value = _mapping(value, "an output")
        if kind == "user_output":
            self.outputs += 1
            return {kind: {"arg": {"as_tensor": _tensor_argument(value.get("arg"), "an output")}}}
        if kind != "buffer_mutation":
            raise UnsafeProgram(f"it has an output of the kind {_shown(kind)}")
        name = _string(value.get("buffer_name"))
        new_name = self.weights.get(name, self.constants.get(name))
        if new_name is None:
            raise DamagedProgram(f"it writes to {_shown(name)}, which it does not have")
        argument = {"name": _identifier(_mapping(value.get("arg"), "an output").get("name"))}
        return {kind: {"arg": argument, "buffer_name": new_name}}


def _call_entry(outputs: int) -> dict[str, Any]:
    """How the program is called: with one tensor, and with one tensor or a tuple of tensors as result."""
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}

    def several(kind: str, context: str, children: list[Any]) -> dict[str, Any]:
        return {"type": f"builtins.{kind}", "context": context, "children_spec": children}

    inputs = several("tuple", "null", [several("tuple", "null", [leaf]), several("dict", "[]", [])])
    result = leaf if outputs == 1 else several("tuple", "null", [leaf] * outputs)
    return {
        "fqn": "",
        "signature": {
            "inputs": [],
            "outputs": [],
            "in_spec": json.dumps([1, inputs]),
            "out_spec": json.dumps([1, result]),
            "forward_arg_names": ["input"],
        },
    }


def _graph(graph: dict[str, Any], tensors: dict[str, Tensor], depth: int) -> dict[str, Any]:
    if graph.get("custom_obj_values"):
        raise UnsafeProgram("it has objects of custom classes")
    return {
        "inputs": [_argument(item, depth) for item in _sequence(graph.get("inputs"), "inputs")],
        "outputs": [_argument(item, depth) for item in _sequence(graph.get("outputs"), "outputs")],
        "nodes": [_node(item, depth) for item in _sequence(graph.get("nodes"), "nodes")],
        "tensor_values": {name: tensor.content for name, tensor in tensors.items()},
        "sym_int_values": _sizes(graph, "sym_int_values", "as_int"),
        "sym_bool_values": _sizes(graph, "sym_bool_values", "as_bool"),
        "sym_float_values": _sizes(graph, "sym_float_values", "as_float"),
        "is_single_tensor_return": _boolean(graph.get("is_single_tensor_return", False)),
        "custom_obj_values": {},
    }


def _sizes(graph: dict[str, Any], key: str, constant: str) -> dict[str, Any]:
    return {
        _identifier(name): _size(value, constant) for name, value in _mapping(graph.get(key, {}), key).items()
    }


def _node(content: Any, depth: int) -> dict[str, Any]:
    node = _mapping(content, "a node")
    target = _string(node.get("target"))
    of_sizes = is_size_function(target)
    if not (of_sizes or is_region(target) or is_tensor_operator(target)):
        raise UnsafeProgram(f"it calls {_shown(target)}")
    name = node.get("name")
    single = node.get("is_hop_single_tensor_return")
    return {
        "target": target,
        "inputs": [
            _named_argument(item, depth, of_sizes, is_region(target))
            for item in _sequence(node.get("inputs"), "the inputs of a node")
        ],
        "outputs": [
            _argument(item, depth) for item in _sequence(node.get("outputs"), "the outputs of a node")
        ],
        "metadata": {},
        "is_hop_single_tensor_return": None if single is None else _boolean(single),
        "name": None if name is None else _identifier(name),
    }


def _named_argument(content: Any, depth: int, of_sizes: bool, of_region: bool) -> dict[str, Any]:
    item = _mapping(content, "an argument")
    name, kind = item.get("name"), item.get("kind")
    if kind not in (None, _POSITIONAL, _KEYWORD) or isinstance(kind, bool):
        raise DamagedProgram(f"an argument has the unknown kind {_shown(kind)}")
    argument = _argument(item.get("arg"), depth, of_region)
    if of_sizes and next(iter(argument)) not in _NUMBERS:
        raise UnsafeProgram("a function on sizes has an argument that is not a number")
    # The text of a name may be empty, and the word of the schema may be a keyword of Python, such as `from`.
    return {"name": _identifier(name, keywords=True) if name else "", "arg": argument, "kind": kind}


_NUMBERS = ("as_int", "as_float", "as_bool", "as_sym_int", "as_sym_float", "as_sym_bool")


def _argument(content: Any, depth: int, of_region: bool = False) -> dict[str, Any]:
    """An argument or a result of a node, `Argument` in torch's schema."""
    kind, value = _variant(content, "an argument")
    if kind == "as_graph":
        if not of_region or depth >= _DEEPEST_GRAPH:
            raise UnsafeProgram("it has a graph where none is expected")
        inner = _mapping(value, "a graph")
        graph = _mapping(inner.get("graph"), "a graph")
        tensors = {
            _identifier(name): clean_tensor(tensor)
            for name, tensor in _mapping(graph.get("tensor_values"), "tensor_values").items()
        }
        return {kind: {"name": _identifier(inner.get("name")), "graph": _graph(graph, tensors, depth + 1)}}
    check = _ARGUMENTS.get(kind)
    if check is None:
        raise UnsafeProgram(f"it has an argument of the kind {_shown(kind)}")
    if kind.endswith("s"):  # a list
        return {kind: [check(item) for item in _sequence(value, "an argument")]}
    return {kind: check(value)}


def _none(content: Any) -> bool:
    if content is not True:
        raise DamagedProgram("an empty argument has a value")
    return True


def _tensor_name(content: Any) -> dict[str, str]:
    return {"name": _identifier(_mapping(content, "a tensor").get("name"))}


def _optional_tensor(content: Any) -> dict[str, Any]:
    kind, value = _variant(content, "a tensor")
    if kind == "as_none":
        return {kind: _none(value)}
    if kind == "as_tensor":
        return {kind: _tensor_name(value)}
    raise DamagedProgram(f"a tensor has the unknown kind {_shown(kind)}")


def _tensor_argument(content: Any, what: str) -> dict[str, str]:
    kind, value = _variant(content, what)
    if kind != "as_tensor":
        raise DamagedProgram(f"{what} of the program is not a tensor")
    return _tensor_name(value)


def _size(content: Any, constant: str = "as_int") -> dict[str, Any]:
    """A number or an expression: `SymInt`, `SymFloat` and `SymBool` in torch's schema."""
    kind, value = _variant(content, "a size")
    if kind == constant:
        return {kind: _CONSTANTS[constant](value)}
    if kind != "as_expr":
        raise DamagedProgram(f"a size has the unknown kind {_shown(kind)}")
    expression = _mapping(value, "a size")
    text = expression.get("expr_str")
    try:
        clean = clean_expression(text if isinstance(text, str) else "")
    except InvalidExpression as exc:
        raise UnsafeProgram(f"a size is not an expression of sizes: {_shown(text)}") from exc
    hint = expression.get("hint")
    if hint is not None:
        hint_kind, hint_value = _variant(hint, "a size")
        if hint_kind not in _CONSTANTS:
            raise DamagedProgram(f"a size has the unknown hint {_shown(hint_kind)}")
        hint = {hint_kind: _CONSTANTS[hint_kind](hint_value)}
    return {kind: {"expr_str": clean, "hint": hint}}


def _named_size(constant: str) -> Any:
    """The check of a size that is a number or the name of a value."""

    def check(content: Any) -> dict[str, Any]:
        kind, value = _variant(content, "a size")
        if kind == "as_name":
            return {kind: _identifier(value)}
        if kind == constant:
            return {kind: _CONSTANTS[constant](value)}
        raise DamagedProgram(f"a size has the unknown kind {_shown(kind)}")

    return check


def _layout(content: Any) -> int:
    if _integer(content) != _STRIDED:
        raise UnsafeProgram("it makes a tensor that is not stored by strides")
    return _STRIDED


def _device(content: Any) -> dict[str, Any]:
    device = _mapping(content, "a device")
    kind, index = device.get("type"), device.get("index")
    if kind not in ("cpu", "cuda"):
        raise UnsafeProgram(f"it uses the device {_shown(kind)}")
    if index is not None and not 0 <= _integer(index) < 128:
        raise DamagedProgram(f"it uses the device {kind}:{_shown(index)}")
    return {"type": kind, "index": index}


def _ranges(content: dict[str, Any]) -> dict[str, Any]:
    ranges = {}
    for name, value in content.items():
        if not is_symbol(name):
            raise UnsafeProgram(f"it limits {_shown(name)}, which is not the name of a size")
        limits = _mapping(value, "a range")
        ranges[name] = {
            key: None if limits.get(key) is None else _integer(limits[key]) for key in ("min_val", "max_val")
        }
    return ranges


def _verifier(content: Any) -> str:
    if content not in ("TRAINING", "ATEN"):
        raise UnsafeProgram(f"it is written in the dialect {_shown(content)}")
    return str(content)


def _mapping(content: Any, what: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DamagedProgram(f"{what} is missing, or is not an object")
    return content


def _sequence(content: Any, what: str) -> list[Any]:
    if not isinstance(content, list):
        raise DamagedProgram(f"{what} is missing, or is not a list")
    return content


def _variant(content: Any, what: str) -> tuple[str, Any]:
    """The kind and the value of a union, which is an object with one key."""
    if not isinstance(content, dict) or len(content) != 1:
        raise DamagedProgram(f"{what} has no kind")
    return next(iter(content.items()))


def _identifier(content: Any, keywords: bool = False) -> str:
    """A name as torch writes it into generated code."""
    if not isinstance(content, str):
        raise DamagedProgram("a value has no name")
    if _IDENTIFIER.fullmatch(content) is None or (keyword.iskeyword(content) and not keywords):
        raise UnsafeProgram(f"it has a value called {_shown(content)}")
    return content


def _integer(content: Any) -> int:
    if not isinstance(content, int) or isinstance(content, bool) or abs(content) > _LARGEST:
        raise DamagedProgram(f"{_shown(content)} is not an integer of 64 bits")
    return content


def _boolean(content: Any) -> bool:
    if not isinstance(content, bool):
        raise DamagedProgram(f"{_shown(content)} is not true or false")
    return content


def _number(content: Any) -> float | str:
    if content in ("Infinity", "-Infinity", "NaN"):
        return str(content)
    if isinstance(content, int):
        return float(_integer(content))
    if not isinstance(content, float) or not math.isfinite(content):
        raise DamagedProgram(f"{_shown(content)} is not a number")
    return content


def _string(content: Any) -> str:
    if not isinstance(content, str) or len(content) > _LONGEST_STRING:
        raise DamagedProgram(f"{_shown(content)} is not a text of at most {_LONGEST_STRING} characters")
    return content


def _shown(content: Any) -> str:
    """A value of the file for a message, shortened."""
    if isinstance(content, list | dict) or (isinstance(content, int) and abs(content) > _LARGEST):
        return (
            "a list"
            if isinstance(content, list)
            else "an object"
            if isinstance(content, dict)
            else "a number"
        )
    text = ascii(content[:80] if isinstance(content, str) else content)
    return text if len(text) <= 60 else f"{text[:57]}..."


_CONSTANTS = {"as_int": _integer, "as_float": _number, "as_bool": _boolean}

_ARGUMENTS = {
    "as_none": _none,
    "as_tensor": _tensor_name,
    "as_tensors": _tensor_name,
    "as_optional_tensors": _optional_tensor,
    "as_int": _integer,
    "as_ints": _integer,
    "as_float": _number,
    "as_floats": _number,
    "as_bool": _boolean,
    "as_bools": _boolean,
    "as_string": _string,
    "as_strings": _string,
    "as_sym_int": _named_size("as_int"),
    "as_sym_ints": _named_size("as_int"),
    "as_sym_float": _named_size("as_float"),
    "as_sym_floats": _named_size("as_float"),
    "as_sym_bool": _named_size("as_bool"),
    "as_sym_bools": _named_size("as_bool"),
    "as_scalar_type": _integer,
    "as_memory_format": _integer,
    "as_layout": _layout,
    "as_device": _device,
}
"""The check of each kind of argument; a kind in the plural has a list of such values."""
