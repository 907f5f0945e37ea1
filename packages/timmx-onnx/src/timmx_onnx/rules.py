"""Corrections of onnxscript's rewrite rules.

Speed: for patterns that end in several nodes, onnxscript 0.7 lists all nodes of the graph for each node that it
compares, and tries all pairs of the pattern's operations: time that grows with the square of the graph, 80 of
csatv2_21m's 110 s. The only such rule of 0.7 joins two slices of one tensor, so the nodes that take this tensor are the
only candidates.

Names: a rule names new initializers after the input of the nodes that it replaces, and one that has this name already
is lost, though other nodes use it (onnxscript's issue 2945). Two clamps of one tensor, as in gemma4_vit, gave an
invalid graph.
"""

from __future__ import annotations

import functools
import itertools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir


class _SameInputMatcher:
    """Matches a pattern whose last nodes have the same first input."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self._first = matcher.pattern.output_nodes[0].op_identifier()

    def match(self, model: ir.Model, graph_or_function: Any, node: ir.Node, **options: Any) -> Any:
        from onnxscript.rewriter import MatchResult

        source = node.inputs[0] if node.inputs else None
        if source is None or node.op_identifier() != self._first:
            return MatchResult().fail("The operation is another one.")
        return self._matcher.match(model, _Consumers(graph_or_function, source), node, **options)


class _Consumers:
    """The nodes of a graph that use a value, in place of all nodes of the graph."""

    def __init__(self, graph_or_function: Any, source: ir.Value) -> None:
        self.graph = graph_or_function
        self._nodes = [node for node in source.consumers() if node.graph is graph_or_function]

    def __iter__(self) -> Iterator[ir.Node]:
        return iter(self._nodes)


def install() -> None:
    """Correct onnxscript's rules, once per process."""
    with suppress(ImportError, AttributeError):  # another version of onnxscript, which is as it is
        from onnxscript import rewriter

        rule_class = rewriter.RewriteRule
        if not hasattr(rule_class.try_rewrite, "__wrapped__"):
            rule_class.try_rewrite = _with_new_names(rule_class.try_rewrite)  # type: ignore[method-assign]
        rules: Any = rewriter._DEFAULT_REWRITE_RULES
        for rule in rules:
            matcher = rule._matcher
            if not isinstance(matcher, _SameInputMatcher) and _share_first_input(matcher.pattern):
                rule._matcher = _SameInputMatcher(matcher)


def _with_new_names(try_rewrite: Any) -> Any:
    """The method, whose new initializers have names that no initializer with other uses has."""

    @functools.wraps(try_rewrite)
    def renaming(self: Any, model: ir.Model, graph_or_function: Any, node: ir.Node, **options: Any) -> Any:
        found = try_rewrite(self, model, graph_or_function, node, **options)
        for value in found.new_initializers if found is not None else ():
            initializers = graph_or_function.initializers
            existing = initializers.get(value.name)
            if existing is not None and not set(found.match.nodes).issuperset(existing.consumers()):
                names = (f"{value.name}_{number}" for number in itertools.count(1))
                value.name = next(name for name in names if name not in initializers)
        return found

    return renaming


def _share_first_input(pattern: Any) -> bool:
    first, *others = pattern.output_nodes
    return bool(others) and all(node.inputs[0] is first.inputs[0] for node in others)


install()
