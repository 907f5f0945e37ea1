"""The pages of the documentation work when a reader follows them: commands run, and print what is shown."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import node
import pytest
from documents import DOCS, DOCUMENTS, ROOT, listed_under, read_blocks
from pages import check_syntax, follow, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pages import Walk

START = DOCS / "get-started.md"
FOLLOWED = [
    START,
    *listed_under("Tasks"),
    *listed_under("Deploy"),
    DOCS / "reports.md",
    DOCS / "torch-export.md",
]
FOLLOWED += [DOCS / "api.md"]


@pytest.fixture(scope="module")
def walk(export, process, digits, tmp_path_factory):
    """Follow a page in a folder with `my-model`, `val`, and what else pages use: path -> Walk, once per page."""
    done: dict[Path, Walk] = {}
    few = Path(digits.removeprefix("local-dir:"))

    def make(page: Path) -> Walk:
        if page not in done:
            folder = tmp_path_factory.mktemp(page.stem)
            (folder / "examples").mkdir()
            shutil.copytree(few, folder / "examples" / "digits")
            if page != START:
                shutil.copytree(few, folder / "my-model")
                images = ROOT / "examples" / "digits" if page.stem in ("compare", "evaluate") else few
                (folder / "val").symlink_to(images / "samples")
                shutil.copytree(few / "samples", folder / "photos")
            (folder / "names.txt").write_text("\n".join("0123456789"))
            write_checkpoint(few, folder / "weights.pth")
            done[page] = follow(page, folder)
        return done[page]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timmx.exporting.parallel.usable_cores", lambda: 1)  # converters are imported once
        yield make


def write_checkpoint(model: Path, path: Path) -> None:
    """The weights of a folder, as a training script saves them."""
    import torch
    from safetensors.torch import load_file

    torch.save({"epoch": 39, "state_dict": load_file(model / "model.safetensors")}, path)


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_page_can_be_followed(walk, page: Path):
    walk(page)


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.stem)
def test_blocks_have_no_syntax_errors(page: Path, tmp_path: Path):
    for block in read_blocks(page.read_text("utf-8")):
        check_syntax(block, tmp_path)


def test_formats_agree_on_predictions(walk):
    """The files of the page on comparing give each image the same probabilities."""
    folder = walk(DOCS / "compare.md").folder
    answers = {}
    for path in sorted((folder / "out").glob("my-model*.*")):
        printed = run(f"timmx predict {path} val/3 --top-k 10 --json", folder)
        answers[path.name] = {
            item["path"]: {guess["label"]: guess["probability"] for guess in item["predictions"]}
            for item in json.loads(printed)["images"]
        }
    assert len(answers) == 4
    first = answers["my-model.pt2"]
    for name, answer in answers.items():
        assert answer.keys() == first.keys()
        for path, expected in first.items():
            assert answer[path] == pytest.approx(expected, abs=0.01), (name, path)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_report_of_the_page_on_comparing_shows_all_files(walk, browser, theme):
    """With TIMMX_SCREENSHOTS, also takes the pictures in docs/_static."""
    folder = walk(DOCS / "compare.md").folder
    with browser.new_context(color_scheme=theme, viewport={"width": 1060, "height": 540}) as context:
        page = context.new_page()
        page.goto((folder / "compare.html").as_uri())
        plot = page.locator("section", has=page.get_by_role("heading", name="Accuracy over latency"))
        plot.locator(".main-svg").first.wait_for()
        for name in ("my-model.pt2", "my-model.tflite"):
            assert page.get_by_text(name).count()
        if theme == "light" and (pictures := os.environ.get("TIMMX_SCREENSHOTS")):
            page.screenshot(path=Path(pictures) / "report.png")
            plot.screenshot(path=Path(pictures) / "report-plot.png")


def test_page_for_browsers_gives_the_same_answer(walk, browser, shared):
    """The page of the guide, in Chromium, with onnxruntime-web from npm."""
    folder = walk(DOCS / "deploy" / "browser.md").folder
    packages = node.install(shared, "onnxruntime-web")
    image = "val/3/0045.png"
    printed = run(f"timmx predict my-model.onnx {image} --top-k 1 --json", folder)
    ((expected,),) = [item["predictions"] for item in json.loads(printed)["images"]]
    shutil.copy(folder / "my-model.onnx", folder / "app")
    (folder / "app" / "ort").symlink_to(packages / "onnxruntime-web" / "dist")
    with served(folder / "app") as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.locator("input").set_input_files(folder / image)
        answer = page.locator("output")
        page.wait_for_function("document.querySelector('output').value.length > 3")
        assert answer.inner_text() == f"{expected['label']}: {100 * expected['probability']:.1f} %"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine."""
    handler = functools.partial(QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a line on stderr for each."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript"
    }  # before Python 3.12

    def log_message(self, *_: object) -> None:
        pass
