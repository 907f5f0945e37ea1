"""The type hints of a `.pt2` file's classes are evaluated once per class."""

from __future__ import annotations

import typing

import timmx_torch_export.hints  # noqa: F401 - changes the module below
from torch._export.serde import schema, serialize


def test_hints_are_those_of_typing_and_evaluated_once():
    plain = typing.get_type_hints(schema.Node, globalns=vars(schema))
    cached = [serialize.typing.get_type_hints(schema.Node, globalns=vars(schema)) for _ in range(2)]
    assert cached[0] == plain
    assert cached[0] is cached[1]
