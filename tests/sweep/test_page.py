"""The HTML report of a sweep with 98 families and 9 formats, in a real browser, and files for analysis."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect
from timmx.sweep.cell import Cell, CellStatus
from timmx.sweep.changes import compare_sweeps
from timmx.sweep.journal import Run
from timmx.sweep.page import sweep_page
from timmx.sweep.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from playwright.sync_api import Page

MODELS = json.loads((Path(__file__).resolve().parent.parent / "families.json").read_text("utf-8"))
TARGETS = (
    *("onnx", "torch-export", "coreml", "coreml:compute_precision=float32", "litert", "litert:mode=int8"),
    *("tensorrt:onnx-only,mode=fp16", "openvino", "executorch"),
)
BELOW = (
    "verification failed, and nothing was published: output has -1.7 dB, the floor is 60 dB; against float64 it has "
    "-2.1 dB, where PyTorch's own float32 has 117.4 dB; the conversion is the cause"
)
FAILURES = (
    (
        CellStatus.FAILED,
        BELOW,
        "report this model to timmx, use another format, or set another floor with --min-snr",
    ),
    (CellStatus.REFUSED, "this format has no operation aten.unfold", "use another format"),
    (CellStatus.ERROR, "ValueError: not a graph", ""),
    (CellStatus.CRASHED, "its process was killed by SIGSEGV: free(): invalid pointer", ""),
    (CellStatus.TIMEOUT, "it took more than 600 s (while exporting)", "raise --limit-seconds"),
    (
        CellStatus.MEMORY,
        "it took 12.4 GB of memory, more than 12 GB (while lowering)",
        "raise --limit-memory",
    ),
)


def cells(seed: int = 0, **figures: bool) -> list[Cell]:
    """A cell for each model and target; every ninth has failed."""
    chance = random.Random(seed)
    result = []
    for row, model in enumerate(MODELS):
        for column, target in enumerate(TARGETS):
            size, wall = int(10 ** chance.uniform(5.5, 8.5)), chance.uniform(1, 60)
            cell = Cell(
                model=model,
                target=target,
                backend=target.partition(":")[0],
                key="k",
                status=CellStatus.VERIFIED,
                family=model.partition("_")[0],
                parameters=size // 4,
                weights="awakened",
                precision="fp32",
                size_bytes=size,
                snr_db=chance.uniform(60, 130),
                floor_db=60.0,
                accuracy=chance.uniform(0.6, 0.9) if figures.get("accuracy") else None,
                latency_ms=10 ** chance.uniform(0, 3) if figures.get("latency") else None,
                file=f"{model}/{model}.x",
                seconds=round(wall, 3),
                cpu_seconds=round(wall * 1.1, 3),
                memory_bytes=2_000_000_000,
                versions={"timmx-core": "0.1.0"},
                ended="2026-11-29T09:00:00+00:00",
            )
            if (row + column) % 9 == 0:
                status, message, hint = FAILURES[(row // 3 + column) % len(FAILURES)]
                cell = replace(
                    cell,
                    status=status,
                    kind="Error",
                    message=message,
                    hint=hint,
                    snr_db=-1.7 if status is CellStatus.FAILED else None,
                    size_bytes=None,
                    accuracy=None,
                    latency_ms=None,
                    file="",
                    command=f"timmx {cell.backend} {model} --output {model}.x --awaken",
                )
            result.append(cell)
    return result


def summary_of(content: Iterable[Cell]) -> Summary:
    command = (
        f"timmx sweep --models names.txt {' '.join(f'--to {target}' for target in TARGETS)} --awaken -o out"
    )
    machine = {"processor": "Example CPU", "cores": "2", "timmx-core": "0.1.0", "torch": "2.14.1"}
    return Summary(
        runs=(Run(command=command, started="2026-11-29T08:00:00+00:00", machine=machine),),
        models=tuple(MODELS),
        targets=TARGETS,
        cells={cell.place: cell for cell in content},
        planned=len(MODELS) * len(TARGETS),
    )


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summary_of(cells(accuracy=True, latency=True))


@pytest.fixture(scope="module")
def page(pages, summary) -> Page:
    """The report, compared with a sweep that had three other failures and lacks a model."""
    earlier = cells(seed=1)
    for number, cell in enumerate(earlier):
        if number in (10, 200, 400):
            earlier[number] = replace(
                cell, status=CellStatus.REFUSED, message="no operation yet", snr_db=None
            )
        elif not cell.status.passed and cell.model in MODELS[:3]:
            earlier[number] = replace(cell, status=CellStatus.VERIFIED, message="", snr_db=100.0)
    before = summary_of(earlier[: -len(TARGETS)])
    show, _ = pages
    return show(sweep_page(summary, compare_sweeps(summary, before, Path("last-week"))))


@pytest.fixture
def shown(page, show) -> Page:
    """The page, scrolled to its top; errors on it fail the test."""
    page.evaluate("scrollTo(0, 0)")
    return page


def section(page: Page, title: str):
    return page.locator("section", has=page.get_by_role("heading", name=title, exact=True))


def test_each_family_and_format_has_a_colored_cell_with_its_reason(shown, summary):
    grid = section(shown, "Families and formats")
    assert grid.locator("tbody tr").count() == len({cell.family for cell in summary.cells.values()})
    assert grid.locator("thead th").all_inner_texts()[1:] == list(TARGETS)
    crashed = grid.locator("td.bad", has_text="crashed").first
    crashed.hover()
    assert "killed by SIGSEGV" in shown.get_by_role("tooltip").inner_text()
    color = "cell => getComputedStyle(cell).backgroundColor"
    assert crashed.evaluate(color) != grid.locator("td.good").first.evaluate(color)
    shown.mouse.move(0, 0)
    assert shown.get_by_role("tooltip").count() == 0


def test_the_grid_is_used_by_keyboard(shown):
    grid = section(shown, "Families and formats")
    grid.get_by_label("Filter the rows of Families and formats").focus()
    focused = (
        "document.activeElement.closest('td') && [document.activeElement.parentElement.rowIndex, "
        "document.activeElement.cellIndex]"
    )
    for _ in range(len(TARGETS) + 3):  # past the filter and the titles
        shown.keyboard.press("Tab")
        if shown.evaluate(focused):
            break
    assert shown.evaluate(focused) == [1, 1]
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        shown.keyboard.press(key)
    assert shown.evaluate(focused) == [2, 1], "the first column has no outcomes"
    assert shown.get_by_role("tooltip").inner_text().startswith(grid.locator("tbody th").nth(1).inner_text())
    assert shown.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    shown.keyboard.press("Escape")
    assert shown.get_by_role("tooltip").count() == 0
    shown.keyboard.press("Tab")
    assert not shown.evaluate(focused), "one more Tab leaves the grid"


def test_tables_are_filtered_and_sorted(shown):
    table = section(shown, "All cells")
    field = table.get_by_label("Filter the rows of All cells")
    field.fill("Litert memory")
    expect(table.get_by_role("status")).to_have_text(re.compile("of 882 rows"))
    rows = table.locator("tbody tr:visible")
    assert 0 < rows.count() < 20
    assert all("litert" in text and "memory limit" in text for text in rows.all_inner_texts())
    assert f"{rows.count()} of 882 rows" in table.inner_text()
    table.get_by_role("columnheader", name="Time").first.get_by_role("button").click()
    column = table.locator("thead th").all_inner_texts().index("Time") + 1
    seconds = [
        float(text.removesuffix(" s")) for text in rows.locator(f"td:nth-child({column})").all_inner_texts()
    ]
    assert seconds == sorted(seconds)
    field.fill("")
    expect(table.get_by_role("status")).to_have_text("")
    assert table.locator("tbody tr:visible").count() == 882


def test_a_group_of_failures_has_a_command_that_repeats_one(shown, summary):
    failures = section(shown, "Failures by reason")
    group = failures.locator("details").first
    group.locator("summary").click()
    command = group.locator("code").inner_text()
    assert command in {cell.command for cell in summary.cells.values()}
    assert group.get_by_role("button", name="copy").is_visible()
    largest = summary.failures()[0]
    assert group.locator(".names").inner_text() == ", ".join(cell.model for cell in largest.cells)
    assert failures.locator("details").count() == len(summary.failures())


def test_plots_have_a_color_and_a_key_for_each_format(shown, summary):
    for title in ("Accuracy and size", "Latency and size"):
        plot = section(shown, title)
        assert plot.locator(".scatterlayer .point").count() == 784
        assert [text[1:].strip() for text in plot.locator(".key").all_inner_texts()] == list(TARGETS)
    key = section(shown, "Latency and size").get_by_role("button", name="onnx", exact=True)
    key.press("Enter")
    assert key.get_attribute("aria-pressed") == "false"
    marks = section(shown, "Latency and size").locator(".scatterlayer .point")
    passed = sum(cell.status.passed and cell.target != "onnx" for cell in summary.cells.values())
    expect(marks).to_have_count(passed)
    key.click()
    expect(marks).to_have_count(784)


def test_what_has_changed_is_shown(shown):
    failing, passing = section(shown, "Newly failing"), section(shown, "Newly passing")
    assert failing.locator("tbody tr").count() == 3
    assert "9 only here" in failing.inner_text()
    assert passing.locator("tbody tr").count() == 3
    assert "no operation yet" in passing.inner_text()
    apart = section(shown, "Signal-to-noise ratio and time of cells that passed twice")
    first, second = (
        float(apart.locator("tbody tr").nth(row).locator("td").nth(4).inner_text()[1:-3]) for row in (0, 1)
    )
    assert first >= second > 0, "the largest losses are first"


def test_a_plot_with_too_many_marks_keeps_the_best_of_each_format(show, summary):
    chance = random.Random(0)
    many = {}
    for cell in summary.cells.values():
        for number in range(8):
            size, top1 = int(10 ** chance.uniform(5.5, 8.5)), chance.uniform(0.6, 0.9)
            model = f"{cell.model}.{number}"
            if cell.status.passed:
                cell = replace(cell, size_bytes=size, accuracy=top1, latency_ms=None)
            many[model, cell.target] = replace(cell, model=model)
    passed = [cell for cell in many.values() if cell.status.passed]
    best = max(passed, key=lambda cell: cell.accuracy)
    smallest = min(passed, key=lambda cell: cell.size_bytes)
    page = show(sweep_page(replace(summary, cells=many)))
    plot = section(page, "Accuracy and size")
    assert plot.locator(".scatterlayer .point").count() == 2000
    assert f"2,000 of {len(passed):,} marks are shown" in plot.inner_text()
    names = plot.locator("tbody td:first-child").all_text_contents()
    assert len(names) == 2000
    assert {f"{best.model}, {best.target}", f"{smallest.model}, {smallest.target}"} <= set(names)


def test_a_phone_scrolls_in_the_grid_and_a_tap_shows_the_reason(show, summary):
    page = show(
        replace(sweep_page(summary), sections=sweep_page(summary).sections[:2]),
        viewport={"width": 360, "height": 740},
        has_touch=True,
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator(".grid td.bad").first.tap()
    tip = page.get_by_role("tooltip")
    place = tip.bounding_box()
    assert "crashed" in tip.inner_text()
    assert place["x"] >= 0
    assert place["x"] + place["width"] <= 360


def test_the_grid_is_readable_without_javascript(show, summary):
    page = show(
        replace(sweep_page(summary), sections=sweep_page(summary).sections[:1]), java_script_enabled=False
    )
    assert "killed by SIGSEGV" in page.locator(".grid td.bad[title*=SIGSEGV]").first.get_attribute("title")
