"""Highlights Swift's projected values, such as `$item`, which the lexer of Pygments 2.21 takes for an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pygments.lexers.objective import SwiftLexer
from pygments.token import Name

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class ProjectedSwiftLexer(SwiftLexer):
    """Swift."""

    tokens: ClassVar[dict[str, Any]] = SwiftLexer.tokens | {
        "root": [(r"\$[A-Za-z_]\w*", Name.Variable), *SwiftLexer.tokens["root"]]
    }


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_lexer("swift", ProjectedSwiftLexer)
    return {"parallel_read_safe": True}
