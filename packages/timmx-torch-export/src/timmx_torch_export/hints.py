"""Type hints of the classes in a `.pt2` file, evaluated once per class.

torch.export.load (2.14) evaluates them for each object of the file: 3 of the 7 s that csatv2_21m takes to open.
"""

from __future__ import annotations

import functools
import importlib
import types
import typing
from contextlib import suppress
from typing import Any


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, globalns=vars(_serialize.schema))


def _get_type_hints(cls: type, globalns: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    if globalns is vars(_serialize.schema) and not options:
        return _hints(cls)
    return typing.get_type_hints(cls, globalns, **options)


_serialize: Any = importlib.import_module("torch._export.serde.serialize")
with suppress(AttributeError):  # another version of PyTorch, which is as fast as it is
    _serialize.schema, _serialize.typing.get_type_hints  # noqa: B018 - what the replacement below stands on
    _serialize.typing = types.SimpleNamespace(**vars(typing) | {"get_type_hints": _get_type_hints})
