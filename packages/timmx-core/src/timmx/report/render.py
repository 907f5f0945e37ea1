"""Writes a report as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

import importlib_metadata

from timmx.base import atomic_write, may_replace, printable, why_not_in
from timmx.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.report.content import Report


def check_report_path(path: Path) -> None:
    """Refuse, before any work is done, what no report can be written to.

    Raises:
        ConfigurationError: the name does not end in `.html`, a folder has it, or a file that is not HTML, or its
            folder cannot be written to.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        better = path.with_suffix(".html") if path.name else path / "report.html"
        raise ConfigurationError(f"--report {path} does not end in .html", hint=f"name it {better}")
    if path.is_dir():
        raise ConfigurationError(f"--report {path} is a folder", hint="name a file that ends in .html")
    if not may_replace(path, "--report", b"<!doctype html", b"<html"):
        raise ConfigurationError(
            f"--report {path} exists and is not HTML; it is left unchanged", hint="name a new file"
        )
    trouble = why_not_in(path.absolute().parent)
    if trouble:
        raise ConfigurationError(f"--report {path}: {trouble}", hint="choose another folder")


def write_report(report: Report, path: Path) -> None:
    """Write the report; a file that is there is replaced when the new one is complete.

    Args:
        report: what it holds.
        path: ends in `.html`. Missing folders are made. Where it is a link, what it points to is replaced.

    Raises:
        ConfigurationError: no report can have this path.
        ArtifactError: it cannot be written there.
    """
    check_report_path(path)
    html = page(report)
    try:
        with atomic_write(path) as file:
            file.write(html)
    except OSError as exc:
        raise ArtifactError(
            f"cannot write the report {path}: {exc.strerror or exc}",
            hint="fix that, or choose another --report",
        ) from exc


def page(report: Report) -> str:
    """The report as HTML: 30 kB, and plotly.js (4.9 MB) where there is a plot."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from timmx.report.figures import sections

    found = sections(report.sections)
    environment = Environment(
        loader=PackageLoader("timmx.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_function"] = _json
    text = environment.get_template("page.html").render(
        report=report,
        sections=found,
        plotly=_plotly() if any(section.plot for section in found) else "",
        part=_part,
        version=importlib_metadata.version("timmx-core"),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    return printable(text)


def _json(value: Any, **options: Any) -> str:
    """A plot's data, with names as the tables show them: in JSON each backslash is two."""
    return printable(json.dumps(value, ensure_ascii=False, **options), backslash="\\\\")


def _plotly() -> str:
    """plotly.js, whole: its Python package holds no smaller one."""
    from plotly.offline import get_plotlyjs

    # Without a comment of its own, it ends no script element (3.7 does not); a later one may hold such a text.
    return get_plotlyjs().replace("</script", "<\\/script")


def _part(name: str) -> str:
    """A style sheet or script of the page, to stand in it as it is."""
    return (resources.files("timmx.report") / "page" / name).read_text("utf-8")
