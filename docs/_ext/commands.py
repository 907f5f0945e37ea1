"""Describes commands of `timmx` from the application itself.

`{command} NAME` shows the usage, the arguments and the options of one command, `{shared-options}` the options that
every format has.

sphinxcontrib-typer was tried: it shows the help as one picture or terminal text of a fixed width, which cannot be read
on a phone, and needs Typer's private copy of Click.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import typer
from docutils import nodes
from docutils.parsers.rst import Directive
from timmx.cli.application import app
from timmx.cli.export import export_command
from timmx.registry import entries, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sphinx.application import Sphinx

ARGUMENTS, OPTIONS = "Arguments", "Options"
"""Titles of what has no group of its own."""


@cache
def command(name: str) -> Any:
    """Typer's object of a command of the core, or of a format."""
    if name not in {entry.name for entry in entries()}:
        return typer.main.get_command(app).commands[name]
    stub = typer.Typer(add_completion=False)
    stub.command(name)(export_command(load(name)))
    return typer.main.get_command(stub)


def shared_options() -> set[str]:
    """The options that every format has."""
    return set.intersection(*({option.name for option in command(entry.name).params} for entry in entries()))


class Command(Directive):
    """Usage, arguments and options of a command; of a format, without the options that every format has."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        found = command(name)
        is_format = name in {entry.name for entry in entries()}
        usage = " ".join(["timmx", name, *found.collect_usage_pieces(typer.Context(found))])
        return [
            nodes.paragraph(text=found.help),
            nodes.literal_block(usage, usage, language="text"),
            *_groups(name, lambda option: not is_format or option.name not in shared_options()),
        ]


class SharedOptions(Directive):
    """The options that every format has."""

    def run(self) -> list[nodes.Node]:
        return [*_groups(entries()[0].name, lambda option: option.name in shared_options())]


def _groups(name: str, keep: Callable[[Any], bool]) -> Iterator[nodes.Node]:
    """The options of a command that are kept, with the titles of `timmx NAME --help`."""
    found = command(name)
    groups: dict[str, list[tuple[str, str]]] = {}
    for option in filter(keep, found.params):
        row = option.get_help_record(typer.Context(found))
        if row is not None:
            title = ARGUMENTS if option.param_type_name == "argument" else option.rich_help_panel or OPTIONS
            groups.setdefault(title, []).append(row)
    for title, rows in groups.items():
        if groups.keys() != {OPTIONS}:
            yield nodes.rubric(text=title)
        shown = nodes.definition_list(classes=["options"])
        for names, text in rows:
            term = nodes.term("", "", nodes.literal(text=names))
            shown += nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph(text=text)))
        yield shown


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command", Command)
    app.add_directive("shared-options", SharedOptions)
    return {"parallel_read_safe": True}
