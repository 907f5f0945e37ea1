"""Fixtures of all tests: trained and awakened models, the command line in this process, thread limits."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for tiny models, more threads only wait for each other

# As in `timmx`: the converters' objects are not freed, and collecting millions of them takes a fifth of the time.
gc.set_threshold(100_000, 20, 50)

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits"


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_over():
    """Free the cycles of a test file once, and exclude the remaining objects from later collections."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The committed model, trained on handwritten digits, as `local-dir:`, with two samples of each class.

    Verification on all 500 samples takes seconds in each export; `tests/examples/test_digits.py` uses them all.
    """
    folder = tmp_path_factory.mktemp("model") / "digits"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DIGITS / name, folder)
    for path in sorted((DIGITS / "samples").glob("*")):
        (folder / "samples" / path.name).mkdir(parents=True)
        for image in sorted(path.iterdir())[:2]:
            shutil.copy(image, folder / "samples" / path.name)
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def exported_digits(digits: str, tmp_path_factory: pytest.TempPathFactory):
    """The digits model as a verified file: (backend, **options) -> path. All tests share it, and must not change it."""
    paths: dict[tuple, Path] = {}

    def make(backend: str, **options) -> Path:
        import timmx
        from timmx.registry import discovery as registry

        key = (backend, *sorted(options.items()))
        if key not in paths:
            output = tmp_path_factory.mktemp("digits") / f"digits{registry.load(backend).suffixes[0]}"
            paths[key] = timmx.export(backend, digits, output=output, **options).path
        return paths[key]

    return make


@pytest.fixture(scope="session")
def awakened(tmp_path_factory: pytest.TempPathFactory):
    """Checkpoints of random-weight models whose outputs vary with the input: name -> file."""
    folder = tmp_path_factory.mktemp("awakened")
    paths: dict[tuple, Path] = {}

    def make(name: str, **model_options) -> Path:
        key = (name, *sorted(model_options.items()))
        if key not in paths:
            import timm
            import torch
            from safetensors.torch import save_model
            from timmx.testing import awaken

            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = awaken(timm.create_model(name, **model_options))
            paths[key] = folder / f"{name}-{len(paths)}.safetensors"
            save_model(model, str(paths[key]))
        return paths[key]

    return make


@pytest.fixture
def run_timmx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`timmx ARGS` in this process, in an empty folder: returns exit_code, stdout, stderr."""
    from timmx.cli.application import app

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return run
