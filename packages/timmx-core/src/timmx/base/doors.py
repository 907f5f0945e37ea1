"""A room's door: the names in its `__init__.pyi`, each imported when it is first used.

Importing a room must not import all of it, since torch takes seconds to import. This is the pattern of SPEC 1
(Scientific Python). Its `lazy_loader` supports relative imports only, and `timmx.plugin` re-exports names of other
rooms.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def door(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from the `from MODULE import NAME as NAME` lines of its
    stub.

    Args:
        package: its `__name__`. Nothing is cached, so that a name always has its module's current value.
    """
    stub = Path(str(sys.modules[package].__file__)).with_suffix(".pyi")
    modules = {
        alias.name: str(node.module)
        for node in ast.parse(stub.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return load, lambda: sorted(modules), sorted(modules)
