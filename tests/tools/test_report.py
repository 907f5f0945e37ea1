"""Reports in a real browser: tables sort, plots are drawn, nothing is fetched, odd names are escaped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from timmx.errors import ArtifactError, ConfigurationError
from timmx.report.content import Bars, Column, Distributions, Matrix, Point, Report, Scatter, Table
from timmx.report.machine import environment
from timmx.report.render import check_report_path, write_report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

ROOT = Path(__file__).resolve().parent.parent.parent
EVIL = "<script>throw new Error('run')</script> <b>\"bold\"</b> &amp; ü→漢字 'q' ${x} {{ 7 * 7 }}"
LONG = "efficientnet" * 40 + ".onnx"
NAN, INF = float("nan"), float("inf")
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

FILES = ("digits.onnx", "digits-fp16.onnx", "digits.mlpackage", "digits-int8.tflite", "digits.pt2")
MEDIANS_MS = (0.112, 0.131, 2.4, 0.098, 0.61)
ACCURACIES = (0.9833, 0.9833, 0.9833, 0.975, None)
SIZES = (95_000, 52_000, 54_000, 41_000, 180_000)
COUNTS = [
    [36 if row == column else int((row, column) == (4, 9)) * 2 for column in range(10)] for row in range(10)
]

ORDINARY = Report(
    title="digits: 5 files compared",
    summary="digits-int8.tflite is the fastest; `timmx verify` measures the others.",
    sections=[
        Table(
            "Files",
            [
                Column("file", "file"),
                Column("size", "size", "bytes"),
                Column("accuracy", "top-1", "percent"),
                Column("median", "median", "ms"),
            ],
            [
                {"file": name, "size": size, "accuracy": accuracy, "median": median}
                for name, size, accuracy, median in zip(FILES, SIZES, ACCURACIES, MEDIANS_MS, strict=True)
            ],
        ),
        Scatter(
            title="Accuracy over latency",
            x_title="median latency (ms)",
            y_title="top-1",
            points=[
                Point(
                    name=name,
                    x=median,
                    y=accuracy or 0.95,
                    size=size,
                    interval=((accuracy or 0.95) - 0.02, 0.995),
                )
                for name, size, accuracy, median in zip(FILES, SIZES, ACCURACIES, MEDIANS_MS, strict=True)
            ],
            size_title="file size",
            y_kind="percent",
            size_kind="bytes",
        ),
        Distributions(
            title="Latency",
            y_title="latency",
            values={name: [m, m * 1.1, m * 1.05] for name, m in zip(FILES, MEDIANS_MS, strict=True)},
            kind="ms",
        ),
        Bars(
            title="Accuracy of each class",
            y_title="top-1",
            values={str(label): 0.9 + label / 100 for label in range(10)},
            intervals={str(label): (0.85, 0.99) for label in range(10)},
            kind="percent",
        ),
        Matrix("Confusion matrix", [str(label) for label in range(10)], COUNTS),
    ],
    environment=environment(["timmx-onnx"]),
    commands=["timmx compare out --data examples/digits/samples --report compare.html"],
)

ODD = Report(
    title=EVIL,
    summary=EVIL + LONG,
    sections=[
        Table(
            EVIL,
            [Column(EVIL, EVIL), Column("value", "value", "number")],
            [
                {EVIL: EVIL, "value": NAN},
                {EVIL: LONG, "value": INF},
                {EVIL: "", "value": 12},
                {EVIL: "b", "value": None},
                {EVIL: None, "value": -INF},
                {"value": 3.5},
            ],
            note=EVIL,
        ),
        Table("No rows", [Column("a", "a")], []),
        Table("No columns", [], []),
        Scatter(
            title="One mark",
            x_title=EVIL,
            y_title=EVIL,
            points=[Point(name=EVIL, x=1, y=2, size=3)],
            size_title=EVIL,
        ),
        Scatter(title="No mark", x_title="x", y_title="y", points=[]),
        Scatter(
            title="Marks without a place",
            x_title="x",
            y_title="y",
            points=[
                Point(name="a", x=NAN, y=1),
                Point(name=LONG, x=INF, y=1),
                Point(name="c", x=2, y=2, size=NAN, interval=(1, INF)),
            ],
        ),
        Distributions(
            title="Odd values",
            y_title=EVIL,
            values={EVIL: [1, 2, NAN, INF], "none": [], LONG: [3.0], "far": [1000.0]},
        ),
        Distributions(title="No values", y_title="y", values={}),
        Bars(
            title="Odd bars",
            y_title="y",
            values={EVIL: NAN, LONG: 2, "z": -1},
            intervals={LONG: (1, NAN), "z": (-2, 0)},
        ),
        Bars(title="No bars", y_title="y", values={}),
        Matrix("No classes", [], []),
        Matrix("One class", [EVIL], [[3]]),
        Matrix("Two classes of one name", ["same", "same"], [[3, 0], [1000, 2]]),
    ],
    environment={EVIL: LONG, "empty": ""},
    commands=[EVIL + LONG],
)


@pytest.fixture(scope="module")
def pages(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """`(open, trouble)`: `open` opens a report in the browser, and errors on its page are added to `trouble`."""
    folder = tmp_path_factory.mktemp("reports")
    contexts: list[BrowserContext] = []
    trouble: list[str] = []

    def show(report: Report, **options) -> Page:
        path = folder / f"report-{len(contexts)}.html"
        write_report(report, path)
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("request", lambda request: trouble.append(f"request: {request.url[:200]}"))
        page.goto(path.as_uri())
        trouble.remove(f"request: {path.as_uri()}")
        return page

    yield show, trouble
    for context in contexts:
        context.close()


@pytest.fixture
def show(pages) -> Iterator:
    """`show(report, **context_options)` opens a report in the browser; errors on the page fail the test."""
    open_page, trouble = pages
    yield open_page
    errors = list(trouble)
    trouble.clear()
    assert errors == []


@pytest.fixture(scope="module")
def shared_pages(pages) -> dict[str, Page]:
    """Pages for tests that leave no trace which another one would see: the plots take seconds to draw."""
    open_page, _ = pages
    return {"ordinary": open_page(ORDINARY), "odd": open_page(ODD)}


@pytest.fixture
def ordinary(shared_pages, show) -> Page:
    return shared_pages["ordinary"]


@pytest.fixture
def odd(shared_pages, show) -> Page:
    return shared_pages["odd"]


def section(page: Page, title: str):
    return page.locator("section", has=page.get_by_role("heading", name=title, exact=True))


def column(page: Page, title: str, number: int) -> list[str]:
    return section(page, title).locator(f"tbody tr td:nth-child({number})").all_inner_texts()


def test_every_plot_has_its_marks(ordinary):
    page = ordinary
    assert page.locator(".plot svg.main-svg").count() > 0
    scatter = section(page, "Accuracy over latency")
    assert scatter.locator(".scatterlayer .point").count() == 5
    assert scatter.locator(".errorbar").count() == 5
    named = scatter.locator(".annotation").all_text_contents()
    assert {"digits.onnx", "digits-int8.tflite", "top-1"} <= set(named)
    assert section(page, "Latency").locator(".boxlayer path.box").count() == 5
    bars = section(page, "Accuracy of each class")
    assert bars.locator(".barlayer .point").count() == 10
    assert bars.locator(".errorbar").count() == 10
    counts = section(page, "Confusion matrix").locator(".heatmap-label").all_text_contents()
    assert sorted(counts) == ["2", *["36"] * 10]


def test_areas_are_proportional_to_sizes(ordinary):
    page = ordinary
    marks = section(page, "Accuracy over latency").locator(".scatterlayer .point")
    boxes = [marks.nth(number).evaluate("mark => mark.getBBox().width") for number in range(5)]
    for width, size in zip(boxes, SIZES, strict=True):
        assert (width / boxes[-1]) ** 2 == pytest.approx(size / SIZES[-1], rel=0.05)


def test_whiskers_of_a_fraction_match_its_interval_and_end_at_one(show):
    points = [
        Point(name="a", x=1, y=0.996, size=10, interval=(0.9856, 0.9989)),
        Point(name="b", x=2, y=1.0, size=1e-9, interval=(0.992, 1.0)),
        Point(name="c", x=3, y=0.99),
    ]
    page = show(
        Report(
            title="",
            summary="",
            sections=[
                Scatter(
                    title="Shares",
                    x_title="ms",
                    y_title="accuracy",
                    points=points,
                    size_title="size",
                    y_kind="percent",
                )
            ],
            environment={},
            commands=[],
        )
    )
    scatter = section(page, "Shares")
    drawn = page.evaluate(
        "document.querySelector('.plot').data.map("
        "({ error_y: e }) => e && e.array ? [e.array[0], e.arrayminus[0]] : null)"
    )
    assert drawn[0] == pytest.approx([0.0029, 0.0104])
    assert drawn[1] == pytest.approx([0.0, 0.008])
    assert drawn[2] is None
    low, high = page.evaluate("document.querySelector('.plot').layout.yaxis.range")
    assert low < 0.9856
    assert high == 1
    marks = scatter.locator(".scatterlayer .point")
    assert min(marks.nth(number).evaluate("mark => mark.getBBox().width") for number in range(3)) >= 8
    scatter.locator("summary").click()
    assert scatter.locator("tbody tr").first.inner_text().split("\t")[:5] == [
        "a",
        "1",
        "99.6 %",
        "98.6 %",
        "99.9 %",
    ]
    assert "hollow: no size" in scatter.inner_text()


def test_hovering_shows_exact_values(ordinary):
    page = ordinary
    scatter = section(page, "Accuracy over latency")
    scatter.scroll_into_view_if_needed()
    mark = scatter.locator(".scatterlayer .point").nth(2).bounding_box()
    page.mouse.move(mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2)
    told = scatter.locator(".hoverlayer .hovertext").first.text_content()
    for part in ("digits.mlpackage", "2.4", "98.3 % (96.3 to 99.5 %)", "54 kB"):
        assert part in told


def test_a_table_sorts_both_ways_with_missing_values_last(ordinary):
    page = ordinary
    head = section(page, "Files").get_by_role("columnheader", name="top-1")
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, "Files", 3) == ["97.5 %", "98.3 %", "98.3 %", "98.3 %", DASH]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, "Files", 3) == ["98.3 %", "98.3 %", "98.3 %", "97.5 %", DASH]
    size = section(page, "Files").get_by_role("columnheader", name="size").get_by_role("button")
    size.focus()
    page.keyboard.press("Enter")  # by value: as text, 180 kB would be first
    assert column(page, "Files", 2) == ["41 kB", "52 kB", "54 kB", "95 kB", "180 kB"]
    assert head.get_attribute("aria-sort") == "none"


def test_infinite_and_missing_numbers_are_sorted(odd):
    page = odd
    button = page.locator("section").first.get_by_role("button", name="value")
    value = "page => [...document.querySelector('tbody').rows].map(row => row.cells[1].innerText)"
    button.click()
    assert page.evaluate(value) == [MINUS + "∞", "3.5", "12", "∞", DASH, DASH]
    button.click()
    assert page.evaluate(value) == ["∞", "12", "3.5", MINUS + "∞", DASH, DASH]


def test_light_and_dark_follow_the_system_and_the_button(show):
    page = show(ORDINARY, color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    paper = "document.querySelector('.main-svg').style.background"

    def seen() -> str:
        for _ in range(100):  # plots are drawn again a moment later
            if page.evaluate(background) == page.evaluate(paper):
                break
            page.wait_for_timeout(50)
        assert page.evaluate(background) == page.evaluate(paper)
        return page.evaluate(background)

    assert seen() == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    dark = seen()
    assert dark != "rgb(255, 255, 255)"
    page.get_by_role("button", name="Show in light colors").click()
    assert seen() == "rgb(255, 255, 255)"
    page.get_by_role("button", name="Show in dark colors").click()
    assert seen() == dark


@pytest.mark.parametrize("report", [ORDINARY, ODD], ids=["ordinary", "odd"])
def test_a_phone_scrolls_in_tables_not_in_the_page(show, report: Report):
    page = show(report, viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for box in page.locator(".box").all():
        if box.is_visible():
            assert box.bounding_box()["width"] <= 360
    assert (
        page.evaluate("Math.max(...[...document.querySelectorAll('.main-svg')].map(s => s.clientWidth))")
        < 360
    )


def test_plots_use_the_available_width(show):
    page = show(ORDINARY, viewport={"width": 1200, "height": 800})
    width = "document.querySelector('.main-svg').clientWidth"
    wide = page.evaluate(width)
    page.set_viewport_size({"width": 500, "height": 800})
    page.wait_for_function(f"{width} < {wide / 2}")


def test_tables_are_readable_without_javascript(show):
    page = show(ORDINARY, java_script_enabled=False)
    assert column(page, "Files", 1) == list(FILES)
    assert [note.is_visible() for note in page.locator("noscript p").all()] == [True] * 4
    assert page.locator("button:visible").count() == 0
    values = section(page, "Latency")
    values.locator("summary").click()
    assert values.locator("tbody tr").first.inner_text().split("\t") == [
        "digits.onnx", "3", "0.112 ms", "0.115 ms", "0.118 ms", "0.120 ms", "0.122 ms", "0.123 ms", "0.123 ms",
    ]  # fmt: skip


def test_odd_names_and_values_are_shown_unchanged(odd):
    page = odd
    assert page.title() == EVIL
    assert page.locator("h1").inner_text() == EVIL
    assert page.locator("td", has_text=EVIL).first.inner_text() == EVIL
    assert page.locator("b").count() == 0
    named = section(page, "One mark").locator(".annotation").all_text_contents()
    assert any("</script>" in name or "…" in name for name in named)
    assert section(page, "One mark").locator(".scatterlayer .point").count() == 1
    assert "Not in the plot: a, efficientnet" in section(page, "Marks without a place").inner_text()
    for title in ("No rows", "No columns", "No mark", "No values", "No bars", "No classes"):
        assert section(page, title).locator("td").all_inner_texts() == ["nothing"]
    assert section(page, "Two classes of one name").locator(".heatmap-label").all_text_contents() == [
        "1000",
        "3",
        "2",
    ]


UNNAMED = os.fsdecode(b"a\xff\\xfe") + "\ud83d ü\N{CAT FACE}"
"""A byte that is not UTF-8, a backslash, half a surrogate pair, and valid characters."""
NAMED = r"a\xff\xfe\ud83d ü" + "\N{CAT FACE}"

NO_UTF8 = Report(
    title=UNNAMED,
    summary=UNNAMED,
    sections=[
        Table(UNNAMED, [Column("a", UNNAMED)], [{"a": UNNAMED}], UNNAMED),
        Scatter(
            title="Scatter",
            x_title=UNNAMED,
            y_title=UNNAMED,
            points=[Point(name=UNNAMED, x=1, y=2, size=3), Point(name="b", x=2, y=3, size=4)],
            size_title=UNNAMED,
        ),
        Distributions(title="Boxes", y_title=UNNAMED, values={UNNAMED: [1, 2, 3]}),
        Bars(title="Bars", y_title=UNNAMED, values={UNNAMED: 1}),
        Matrix("Matrix", [UNNAMED, "b"], [[3, 1], [0, 2]]),
    ],
    environment={UNNAMED: UNNAMED},
    commands=[UNNAMED],
)


def test_names_that_are_not_utf8_are_escaped_in_tables(tmp_path: Path):
    write_report(NO_UTF8, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert f"<td>{NAMED}</td>" in text
    assert f"<h1>{NAMED}</h1>" in text
    plots = [
        json.loads(found)
        for found in re.findall(r'<script type="application/json" class="plot-data">(.*?)</script>', text)
    ]
    assert [plot["type"] for plot in plots] == ["scatter", "boxes", "bars", "matrix"]
    assert [point["name"] for point in plots[0]["points"]] == [NAMED, "b"]
    assert all(NAMED in json.dumps(plot, ensure_ascii=False).replace(r"\\", "\\") for plot in plots)


def test_names_that_are_not_utf8_are_escaped_in_plots(show):
    page = show(NO_UTF8)
    assert page.locator("h1").inner_text() == NAMED
    assert NAMED in section(page, "Scatter").locator(".annotation").all_text_contents()


def test_a_matrix_of_a_thousand_classes_is_drawn(show):
    n = 1000
    counts = [[0] * n for _ in range(n)]
    for row in range(n):
        counts[row][row] = 40
        counts[row][(row * 7) % n] += 3
    page = show(
        Report(
            title="Many classes",
            summary="",
            sections=[Matrix("Confusion matrix", [f"class {i}" for i in range(n)], counts)],
            environment={},
            commands=[],
        )
    )
    matrix = section(page, "Confusion matrix")
    assert matrix.locator(".heatmaplayer image").count() == 2
    matrix.locator("summary").click()
    assert matrix.locator("tbody tr").first.inner_text().split("\t") == ["class 1", "class 7", "3", "7.0 %"]


def test_a_table_with_too_many_rows_is_truncated_with_a_note(show):
    rows = [{"image": f"{number}.png"} for number in range(50_000)]
    page = show(
        Report(
            title="Many images",
            summary="",
            sections=[Table("Images", [Column("image", "image")], rows, "All wrong.")],
            environment={},
            commands=[],
        )
    )
    assert page.locator("tbody tr").count() == 5000
    assert page.get_by_text("All wrong. The first 5,000 of 50,000 rows.").is_visible()
    for _ in range(2):
        page.get_by_role("columnheader", name="image").get_by_role("button").click()
    assert page.locator("tbody tr").first.inner_text() == "4999.png"


def test_a_command_is_copied(show):
    page = show(ORDINARY, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="copy").click()
    page.get_by_role("button", name="copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == ORDINARY.commands[0]


def test_a_printed_report_is_light_and_fits_the_paper(show):
    page = show(ORDINARY, color_scheme="dark", viewport={"width": 1200, "height": 800})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("document.querySelector('.main-svg').clientWidth") <= 680
    assert page.evaluate("document.querySelector('.main-svg').style.background") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf()[:5] == b"%PDF-"


def test_a_report_is_self_contained_and_has_plotly_only_with_plots(tmp_path: Path):
    path = tmp_path / "made" / "on the way" / "report.html"
    write_report(
        Report(title="Table", summary="", sections=ORDINARY.sections[:1], environment={}, commands=[]), path
    )
    assert path.stat().st_size < 30_000
    assert not re.search(
        r"https?://|<link[^>]+stylesheet|<script[^>]+src|@import|url\(", path.read_text("utf-8")
    )
    write_report(ORDINARY, path)
    text = path.read_text("utf-8")
    assert len(re.findall(r"\* plotly\.js v", text)) == 1
    assert not re.search(r"<script[^>]+src=|<link[^>]+stylesheet", text)
    assert [child.name for child in path.parent.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    check_report_path(tmp_path / "new folder" / "report.html")
    assert not (tmp_path / "new folder").exists()
    for path, said in (
        (tmp_path / "report.pdf", "report.html"),
        (tmp_path / "report", "report.html"),
        (tmp_path / "folder.html", "is a folder"),
        (tmp_path / "file" / "report.html", "is a file"),
        *([(Path("/proc/report.html"), "/proc cannot be written to")] if Path("/proc/self").exists() else []),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(said)):
            check_report_path(path)
        with pytest.raises(ConfigurationError, match=re.escape(said)):
            write_report(ORDINARY, path)


def test_the_documented_example_writes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = (ROOT / "docs" / "reports.md").read_text("utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert "95 kB" in (tmp_path / "files.html").read_text("utf-8")


def test_a_full_disk_leaves_the_old_report(tmp_path: Path):
    resource = pytest.importorskip("resource", reason="no limits on file sizes on this system")
    import signal

    path = tmp_path / "report.html"
    path.write_text("<html>old")
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(ArtifactError, match=r"cannot write the report .*report\.html: File too large"):
            write_report(ORDINARY, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "<html>old"
    assert [child.name for child in tmp_path.iterdir()] == ["report.html"]


def test_a_file_that_is_not_a_report_is_not_replaced(tmp_path: Path):
    (tmp_path / "notes.html").write_text("my notes")
    with pytest.raises(ConfigurationError, match="is not HTML; it is left unchanged"):
        check_report_path(tmp_path / "notes.html")


def test_report_libraries_are_imported_only_for_a_report(process):
    code = (
        "import sys, timmx.cli.application, timmx.report.content, timmx.report.render;"
        "from pathlib import Path; timmx.report.render.check_report_path(Path('a.html')); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert not {"jinja2", "markupsafe", "plotly"} & set(done.stdout.split())
