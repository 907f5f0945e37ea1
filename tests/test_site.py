"""The documentation site works from a folder, without a server and without a network, on desktops and phones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from documents import DOCS, ROOT, listed_under


@pytest.fixture(scope="module")
def site(process, tmp_path_factory) -> Path:
    """The folder of the site: that of TIMMX_SITE if it was built already."""
    if "TIMMX_SITE" in os.environ:
        return Path(os.environ["TIMMX_SITE"])
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on PATH")
    folder = tmp_path_factory.mktemp("site")
    command = [
        uv,
        "run",
        "--group",
        "docs",
        "sphinx-build",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "docs",
        folder,
    ]
    process(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture
def page(browser):
    """A page on a desktop; anything that it loads from elsewhere fails the test."""
    requests: list[str] = []
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        yield page
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def test_search_finds_a_page_without_a_server(site, page):
    page.goto((site / "index.html").as_uri())
    page.get_by_role("textbox", name="Search").fill("antialiasing bicubic")
    page.keyboard.press("Enter")
    page.locator("#search-results li", has_text="Android").wait_for()


def test_a_reader_finds_every_page_in_two_clicks(site, page):
    page.goto((site / "index.html").as_uri())
    (article,) = page.locator("article").all()
    links = {link.get_attribute("href") for link in article.locator("a.internal").all()}
    for caption in ("Tasks", "Deploy", "Formats", "Reference"):
        for source in listed_under(caption):
            href = source.relative_to(DOCS).with_suffix(".html").as_posix()
            if href in links:
                continue
            page.goto((site / "deploy" / "index.html").as_uri())
            second = {link.get_attribute("href") for link in page.locator("article a.internal").all()}
            assert second & {f"../{href}", href.removeprefix("deploy/")}, f"no way to {href}"


def test_no_page_scrolls_sideways_on_a_phone(site, browser):
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path.name
