"""Decomposes the operations of a captured program; equal operations only once."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import operator
import re
import types
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch._export.utils import _is_preservable_cia_op
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram, default_decompositions
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.passes.shape_prop import _extract_tensor_metadata
from torch.fx.proxy import _COPY_META_FIELDS
from torch.utils import _pytree as pytree

from timmx.capture.in_place import Unsuitable, functional_graph
from timmx.capture.trace import without_stack_traces

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence

    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx import Graph, Node

    Table = Mapping[torch._ops.OperatorBase, Callable[..., Any]]

aten = torch.ops.aten

_MOST_ROUNDS = 10

_MOST_KNOWN = 10_000
"""Decompositions that a process keeps, some kB each."""

_run_decompositions = ExportedProgram.run_decompositions

_META = {*_COPY_META_FIELDS} - {"original_aten"}
"""What the operations of a decomposition have from the decomposed one."""


def decompose(program: ExportedProgram, decomp_table: Table | None = None, **options: Any) -> ExportedProgram:
    """`program.run_decompositions(decomp_table)`, in a fraction of the time.

    torch traces the whole program again, which takes 5 to 10 ms per operation, and is most of the time of a conversion
    to LiteRT. Here torch decomposes a program with one operation of each kind and shape, and the result stands for all
    of them. A program with dynamic shapes, side effects, or operations in place whose input is used otherwise is
    traced by torch.

    Args:
        program: not changed.
        decomp_table: a function for each operation to decompose; by default torch's own.
        options: of `run_decompositions`.
    """
    complete: Any = default_decompositions() if decomp_table is None else decomp_table
    complete = dict(complete.materialize() if hasattr(complete, "materialize") else complete)
    with without_stack_traces():
        if not options:
            with contextlib.suppress(Unsuitable):
                return _decompose(program, complete)
        return _run_decompositions(program, complete, **options)


@contextlib.contextmanager
def quick_decompositions() -> Iterator[None]:
    """Inside the block, `ExportedProgram.run_decompositions` is `decompose`, for converters that call it."""
    ExportedProgram.run_decompositions = decompose  # type: ignore[method-assign]
    try:
        yield
    finally:
        ExportedProgram.run_decompositions = _run_decompositions  # type: ignore[method-assign]


@dataclass
class _Call:
    """One kind of operation to decompose.

    Attributes:
        node: a node of the program, which is one example of it.
        value: the fake tensor, or list of fake tensors, that it returns.
    """

    node: Node
    value: Any


def _decompose(program: ExportedProgram, table: Table) -> ExportedProgram:
    graph = functional_graph(program)
    mode = detect_fake_mode([node.meta.get("val") for node in graph.find_nodes(op="placeholder")])
    if mode is None:
        raise Unsuitable
    known = _Known(table, mode)
    for _ in range(_MOST_ROUNDS):
        # A decomposition may return other strides than the operation, on which those of later ones depend.
        values, kinds, new_calls = _propagate(graph, table, known)
        if not new_calls:
            return _spliced(program, graph, values, {node: known[key] for node, key in kinds.items()})
        known.add(new_calls, _decompositions(list(new_calls.values()), values, table))
    raise Unsuitable


def _must_be_decomposed(target: Any, table: Table) -> bool:
    if target is operator.getitem:
        return False
    if not isinstance(target, torch._ops.OpOverload):
        return True
    if target is aten.lift_fresh_copy.default:  # torch replaces it, whatever the table says
        return True
    return target in table or (target._can_decompose() and not _is_preservable_cia_op(target))


def _propagate(
    graph: Graph, table: Table, known: _Known
) -> tuple[dict[Node, Any], dict[Node, Hashable], dict[Hashable, _Call]]:
    """Compute shapes.

    Returns:
        The fake tensor, or list of them, of each node; the kind of each node to decompose; the kinds that are not
        known, with an example.

    Raises:
        Unsuitable: a shape is dynamic, or an operation returns something else than tensors.
    """
    placeholders = graph.find_nodes(op="placeholder")
    fakes = [node.meta.get("val") for node in placeholders]
    if not all(map(_is_static, fakes)):
        raise Unsuitable
    values: dict[Node, Any] = dict(zip(placeholders, fakes, strict=True))
    kinds: dict[Node, Hashable] = {}
    new_calls: dict[Hashable, _Call] = {}
    with known.mode, torch.no_grad():
        for node in graph.nodes:
            if node.op != "call_function":
                continue
            if _must_be_decomposed(node.target, table):
                key = kinds[node] = _key(node, values)
                if key in known:
                    values[node] = known[key].value
                    continue
                if key in new_calls:
                    values[node] = new_calls[key].value
                    continue
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
            value = values[node] = node.target(*args, **kwargs)
            if not all(map(_is_static, _tensors(value))) or not _has_its_type(node, value):
                raise Unsuitable
            if node in kinds:
                new_calls[kinds[node]] = _Call(node, value)
    return values, kinds, new_calls


def _has_its_type(node: Node, value: Any) -> bool:
    """Whether a value has the type that the node had; without it, an operation in place converted its result."""
    expected = node.meta.get("val")
    return not isinstance(expected, torch.Tensor) or expected.dtype == getattr(value, "dtype", None)


def _tensors(value: Any) -> Sequence[Any]:
    """The results of an operation: a tensor, several, or none."""
    return value if isinstance(value, (tuple, list)) else () if value is None else (value,)


def _is_static(value: Any) -> bool:
    sizes = (*value.shape, *value.stride()) if isinstance(value, torch.Tensor) else (None,)
    return all(isinstance(size, int) for size in sizes)


def _facts(value: Any) -> Hashable:
    """What the decomposition of an operation may depend on, of an argument or a result."""
    if isinstance(value, torch.Tensor):
        strides = [stride for size, stride in zip(value.shape, value.stride(), strict=True) if size != 1]
        return (tuple(value.shape), *strides, value.dtype, value.device)
    if isinstance(value, (tuple, list)):
        return (type(value).__name__, *map(_facts, value))
    return type(value).__name__, repr(value)


def _key(node: Node, values: dict[Node, Any]) -> Hashable:
    """Equal for calls of the same function with arguments of the same kinds, shapes and values."""
    names = {source: number for number, source in enumerate(node.all_input_nodes)}
    flat, spec = pytree.tree_flatten((list(node.args), dict(node.kwargs)))
    arguments = tuple(
        ("node", names[value], _facts(values[value])) if isinstance(value, torch.fx.Node) else _facts(value)
        for value in flat
    )
    return _identity(node.target), str(spec), arguments


def _identity(value: Any, outer: tuple[Any, ...] = ()) -> Hashable:
    """Equal for functions that one line of code makes of equal values: torch and converters make some of them again.

    Args:
        value: a function, or a value that it uses.
        outer: the functions that use it.

    Raises:
        Unsuitable: a function uses a value that cannot be compared.
    """
    if any(value is function for function in outer):  # it calls itself
        return len(outer)
    parts: list[Any]
    if isinstance(value, functools.partial):
        parts = ["partial", value.func, value.args, value.keywords]
    elif isinstance(value, types.MethodType):
        parts = ["method", value.__func__, value.__self__]
    elif isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = [value.__code__, cells, value.__defaults__, value.__kwdefaults__]
    elif isinstance(value, (tuple, list)):
        parts = [type(value), *value]
    elif isinstance(value, dict):
        parts = [dict, *itertools.chain(*value.items())]
    else:
        try:
            hash(value)
        except TypeError:
            raise Unsuitable from None
        return type(value), value
    return tuple(_identity(part, (*outer, value)) for part in parts)


def _program_of(calls: list[_Call], values: dict[Node, Any]) -> ExportedProgram:
    """A program that makes each call once, each with inputs of its own."""
    graph = torch.fx.Graph()
    inputs: list[Node] = []
    results: list[Node] = []
    targets: dict[str, Any] = {}
    for number, call in enumerate(calls):
        own: dict[Node, Node] = {}
        for source in call.node.all_input_nodes:
            own[source] = graph.placeholder(f"input_{number}_{len(own)}")
            own[source].meta["val"] = values[source]
        inputs += own.values()
        args, kwargs = torch.fx.map_arg((call.node.args, call.node.kwargs), own.__getitem__)
        node = graph.call_function(aten.alias.default, args, kwargs)
        node.meta["val"] = call.value
        targets[node.name] = call.node.target
        if isinstance(call.value, torch.Tensor):
            results.append(node)
            continue
        for position, value in enumerate(_tensors(call.value)):
            results.append(graph.call_function(operator.getitem, (node, position)))
            results[-1].meta["val"] = value
    graph.output(tuple(results))
    signature = ExportGraphSignature(
        input_specs=[InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None) for node in inputs],
        output_specs=[
            OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in results
        ],
    )
    entry = ModuleCallEntry(
        "",
        ModuleCallSignature(
            inputs=[],  # the structures suffice
            outputs=[],
            in_spec=pytree.tree_structure((tuple(inputs), {})),
            out_spec=pytree.tree_structure(tuple(results)),
        ),
    )
    combined = ExportedProgram(
        root=torch.fx.GraphModule({}, graph),
        graph=graph,
        graph_signature=signature,
        state_dict={},
        range_constraints={},
        module_call_graph=[entry],
        constants={},
    )
    for node in combined.graph.nodes:  # now, since the program's verifier allows no Python function
        node.target = targets.get(node.name, node.target)
    combined.graph_module.recompile()
    return combined


@dataclass(kw_only=True)
class _Decomposition:
    """The operations that stand for one kind of call.

    Attributes:
        inputs: the placeholders for its arguments.
        constants: the placeholders for constants that it uses, with their values.
        nodes: its operations in their order.
        outputs: the nodes that it returns.
        value: the fake tensor, or list of fake tensors, that it returns.
        metas: what each of `nodes` returns.
    """

    inputs: list[Node]
    constants: dict[Node, torch.Tensor]
    nodes: list[Node]
    outputs: list[Node]
    value: Any
    metas: dict[Node, dict[str, Any]] = field(default_factory=dict)


class _Known:
    """The decompositions that this process knows for a table, with fake tensors of one mode."""

    _tables: ClassVar[dict[Hashable, dict[Hashable, _Decomposition]]] = {}
    _count: ClassVar[int] = 0

    def __init__(self, table: Table, mode: FakeTensorMode) -> None:
        self.mode = mode
        names = frozenset((operation, _identity(function)) for operation, function in table.items())
        # attention takes another kernel with gradients
        self._of_table = self._tables.setdefault((names, torch.is_grad_enabled()), {})
        self._own: dict[Hashable, _Decomposition] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._of_table

    def __getitem__(self, key: Hashable) -> _Decomposition:
        if key not in self._own:
            self._own[key] = self._in_this_mode(self._of_table[key])
        return self._own[key]

    def add(self, keys: Iterable[Hashable], decompositions: list[_Decomposition]) -> None:
        if _Known._count > _MOST_KNOWN:
            self._tables.clear()
            self._of_table, _Known._count = dict(self._own), 0
        _Known._count += len(decompositions)
        self._of_table |= zip(keys, decompositions, strict=True)

    def _in_this_mode(self, found: _Decomposition) -> _Decomposition:
        with self.mode:
            metas = {
                node: {key: value for key, value in node.meta.items() if key not in _META}
                | _meta(_fake(node.meta["val"]))
                for node in found.nodes
            }
            value = _fake(found.value)
        return replace(found, metas=metas, value=value)


def _fake(value: Any) -> Any:
    """A tensor of the same shape and strides, or several, in the current mode."""
    if isinstance(value, (tuple, list)):
        return [_fake(item) for item in value]
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _decompositions(calls: list[_Call], values: dict[Node, Any], table: Table) -> list[_Decomposition]:
    """How torch decomposes each call."""
    program = _run_decompositions(_program_of(calls, values), dict(table))
    placeholders = program.graph.find_nodes(op="placeholder")
    constants: dict[Node, torch.Tensor] = {}
    inputs: list[Node] = []
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(node)
        else:
            assert spec.target is not None
            constants[node] = program.constants[spec.target]
    results = program.graph.output_node().args[0]
    assert isinstance(results, (tuple, list))
    order = {node: number for number, node in enumerate(program.graph.nodes)}
    found = []
    for call in calls:
        sources = call.node.all_input_nodes
        own, inputs = inputs[: len(sources)], inputs[len(sources) :]
        count = len(_tensors(call.value))
        outputs, results = list(results[:count]), results[count:]
        needed: set[Node] = set()
        ahead = list(outputs)
        while ahead:
            node = ahead.pop()
            if node not in needed:
                needed.add(node)
                ahead += node.all_input_nodes
        nodes = sorted((node for node in needed if node.op != "placeholder"), key=order.__getitem__)
        used = {node: value for node, value in constants.items() if node in needed}
        # an output that is an input has the placeholder's value
        of_input = dict(zip(own, sources, strict=True))
        tensors = [values[of_input[node]] if node in of_input else node.meta["val"] for node in outputs]
        value = tensors[0] if isinstance(call.value, torch.Tensor) else tensors
        found.append(_Decomposition(inputs=own, constants=used, nodes=nodes, outputs=outputs, value=value))
    return found


def _spliced(
    program: ExportedProgram,
    graph: Graph,
    values: dict[Node, Any],
    decompositions: dict[Node, _Decomposition],
) -> ExportedProgram:
    """The program with decompositions in place of the nodes that have one."""
    new = torch.fx.Graph()
    found: dict[Node, Any] = {}
    """The nodes of the new graph, or a list of nodes, for those of the old and of the decompositions."""
    specs: list[InputSpec] = []
    constants = dict(program.constants)
    signature = program.graph_signature
    placeholders = graph.find_nodes(op="placeholder")
    first_input = next(i for i, spec in enumerate(signature.input_specs) if spec.kind is InputKind.USER_INPUT)
    for position, (node, spec) in enumerate(zip(placeholders, signature.input_specs, strict=True)):
        if position == first_input:
            for placeholder, tensor in _lifted(decompositions.values()).items():
                target = _unused(f"lifted_tensor_{len(constants)}", constants)
                found[placeholder] = _named(new, placeholder, f"c_{target}", found)
                constants[target] = tensor.clone()  # the known one stays as it is
                specs.append(
                    InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(found[placeholder].name), target)
                )
        found[node] = _named(new, node, node.name, found)
        specs.append(InputSpec(spec.kind, TensorArgument(found[node].name), spec.target, spec.persistent))
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        decomposition = decompositions.get(node)
        if decomposition is not None:
            found |= zip(decomposition.inputs, map(found.__getitem__, node.all_input_nodes), strict=True)
            kept = {key: node.meta[key] for key in _META if key in node.meta}
            for item in decomposition.nodes:
                found[item] = _named(new, item, item.name, found, kept | decomposition.metas[item])
            outputs = [found[item] for item in decomposition.outputs]
            found[node] = outputs if isinstance(decomposition.value, list) else outputs[0]
        elif node.target is operator.getitem and isinstance(found[node.args[0]], list):
            found[node] = found[node.args[0]][node.args[1]]
        else:
            found[node] = _named(new, node, node.name, found, node.meta | _meta(values[node]))
    results = torch.fx.map_arg(graph.output_node().args[0], found.__getitem__)
    new.output(results).meta = dict(graph.output_node().meta)
    new.eliminate_dead_code()
    new.lint()
    names = [node.name for node in pytree.tree_leaves(results)]
    old_names = [spec.arg.name for spec in (*signature.input_specs, *signature.output_specs)]
    new_names = [*(found[node].name for node in placeholders), *names]
    module = torch.fx.GraphModule({}, new)
    module.meta.update(program.graph_module.meta)
    return ExportedProgram(
        root=module,
        graph=new,
        graph_signature=ExportGraphSignature(
            input_specs=specs,
            output_specs=[
                OutputSpec(spec.kind, TensorArgument(name), spec.target)
                for spec, name in zip(signature.output_specs, names, strict=True)
            ],
        ),
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=_renamed(program.module_call_graph, dict(zip(old_names, new_names, strict=True))),
        example_inputs=program.example_inputs,
        constants=constants,
    )


def _lifted(decompositions: Iterable[_Decomposition]) -> dict[Node, torch.Tensor]:
    return {node: value for item in decompositions for node, value in item.constants.items()}


def _unused(name: str, names: Container[str]) -> str:
    return next(free for n in itertools.count() if (free := f"{name}_{n}" if n else name) not in names)


def _named(
    graph: Graph, node: Node, name: str, found: dict[Node, Any], meta: Mapping[str, Any] | None = None
) -> Node:
    """A copy of a node in another graph, which numbers nodes of equal names again."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), found.__getitem__)
    if node.op != "placeholder":
        name = re.sub(r"_\d+$", "", name)
    copied = graph.create_node(node.op, node.target, args, kwargs, name, node.type)
    copied.meta = dict(node.meta if meta is None else meta)
    return copied


def _meta(value: Any) -> dict[str, Any]:
    """The meta of a node that returns this fake tensor, as a trace writes it."""
    if not isinstance(value, torch.Tensor):
        return {"val": value}
    return {"val": value, "tensor_meta": _extract_tensor_metadata(value)}


def _renamed(entries: list[ModuleCallEntry], names: Mapping[str, str]) -> list[ModuleCallEntry]:
    entries = copy.deepcopy(entries)
    for entry in entries:
        if entry.signature is not None:
            for argument in (*entry.signature.inputs, *entry.signature.outputs):
                argument.name = names.get(argument.name, argument.name)
    return entries
