"""Writes a report as one self-contained HTML file, which needs no network and no other file."""

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


def check_report_path(path: Path, flag: str = "--report") -> None:
    """Check that a report can be written to a path, before any work is done.

    Args:
        path: of the report.
        flag: the option that named it, for messages.

    Raises:
        ConfigurationError: the path does not end in `.html`, is a folder or a file that is not HTML, or its folder
            cannot be written to.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        better = path.with_suffix(".html") if path.name else path / "report.html"
        raise ConfigurationError(f"{flag} {path} does not end in .html", hint=f"name it {better}")
    if path.is_dir():
        raise ConfigurationError(f"{flag} {path} is a folder", hint="name a file that ends in .html")
    if not may_replace(path, flag, b"<!doctype html", b"<html"):
        raise ConfigurationError(
            f"{flag} {path} exists and is not HTML; it is left unchanged", hint="name a new file"
        )
    trouble = why_not_in(path.absolute().parent)
    if trouble:
        raise ConfigurationError(f"{flag} {path}: {trouble}", hint="choose another folder")


def write_report(report: Report, path: Path, flag: str = "--report") -> None:
    """Write the report; an existing file is replaced when the new one is complete.

    Args:
        report: the content.
        path: ends in `.html`. Missing folders are created. If it is a link, its target is replaced.
        flag: the option that named it, for messages.

    Raises:
        ConfigurationError: the path is invalid; see `check_report_path`.
        ArtifactError: it cannot be written.
    """
    check_report_path(path, flag)
    html = page(report)
    try:
        with atomic_write(path) as file:
            file.write(html)
    except OSError as exc:
        raise ArtifactError(
            f"cannot write the report {path}: {exc.strerror or exc}",
            hint=f"fix that, or choose another {flag}",
        ) from exc


def page(report: Report) -> str:
    """The report as HTML: 30 kB, plus plotly.js (4.9 MB) if there is a plot."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from timmx.report.figures import sections

    content = sections(report.sections)
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
        sections=content,
        plotly=_plotly() if any(section.plot for section in content) else "",
        part=_part,
        version=importlib_metadata.version("timmx-core"),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    return printable(text)


def _json(value: Any, **options: Any) -> str:
    """A plot's data, with names as in the tables; JSON doubles each backslash."""
    return printable(json.dumps(value, ensure_ascii=False, **options), backslash="\\\\")


def _plotly() -> str:
    """The complete plotly.js: its Python package has no smaller build."""
    from plotly.offline import get_plotlyjs

    # plotly.js 3.7 does not contain "</script", but a later version may.
    return get_plotlyjs().replace("</script", "<\\/script")


def _part(name: str) -> str:
    """A style sheet or script of the page, to be embedded unchanged."""
    return (resources.files("timmx.report") / "page" / name).read_text("utf-8")
