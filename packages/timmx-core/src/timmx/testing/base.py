"""What all conformance checks share: the backend under test, its exports, and skips with reasons."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from timmx import registry
from timmx.contract import Capabilities, Metadata, OpenSettings
from timmx.errors import RuntimeUnavailable
from timmx.testing.models import awakened_model, small_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from timmx.contract import ExportBackend, Runner
    from timmx.exporting import ExportResult

    FreshPython = Callable[..., subprocess.CompletedProcess[str]]

LABELS = ("naïve", "猫", 'a "quoted" one', "comma, space", "five")
"""The labels of `classifier`."""

EXPORT_CHECK = "_timmx_export_check"
"""Attribute of a check that exports; at least one such check must run."""


def export_check(function: Callable[..., None]) -> Callable[..., None]:
    """Mark a check that exports a model, and count it when it is complete."""

    @functools.wraps(function)
    def run(self: ConformanceBase, *arguments: Any, **fixtures: Any) -> None:
        function(self, *arguments, **fixtures)
        type(self)._export_checks_run += 1

    setattr(run, EXPORT_CHECK, True)
    return run


def requires(capability: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Skip a check if the backend's `capabilities` give a reason why it cannot do this."""
    assert capability in Capabilities.__dataclass_fields__, capability

    def mark(function: Callable[..., None]) -> Callable[..., None]:
        function._timmx_requires = capability  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True)
class Repeated:
    """A second export of the same model.

    Attributes:
        result: its result.
        written_elsewhere: what it wrote into the current folder, next to the artifact, or into its folder's parent.
    """

    result: ExportResult
    written_elsewhere: tuple[Path, ...]


class ConformanceBase:
    """The settings of a conformance class, and its fixtures.

    Attributes:
        backend: name of the backend's entry point.
        export_options: the backend's own options for every export, such as a mode.
        dynamic_batch_options: further options that the format needs with `--dynamic-batch`.
        light_modules: required modules that `timmx <backend> --help` may import.
        overridden: standard checks that this class replaces or removes, each with the reason.
    """

    backend: ClassVar[str]
    export_options: ClassVar[dict[str, Any]] = {}
    dynamic_batch_options: ClassVar[dict[str, Any]] = {}
    light_modules: ClassVar[tuple[str, ...]] = ("typer", "timmx")
    overridden: ClassVar[dict[str, str]] = {}
    _export_checks_run: ClassVar[int] = 0

    @pytest.fixture
    def subject(self) -> ExportBackend:
        """The backend, loaded by the registry as on the command line."""
        return registry.load(self.backend)

    @pytest.fixture
    def fresh_python(self) -> FreshPython:
        """Run code in a new interpreter: (code, *arguments) -> its output."""

        def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
            done = subprocess.run(
                [sys.executable, "-P", "-c", code, *arguments],
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return done

        return run

    @pytest.fixture(autouse=True)
    def _quiet_log(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keep torch's structured trace out of the captured log of failures: 66 lines for one export.

        The logger is always at DEBUG and does not propagate; pytest 9.1 adds its handler to such loggers too.
        """
        if "TORCH_TRACE" not in os.environ:
            monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)

    @pytest.fixture(autouse=True)
    def _skip_what_the_format_cannot_do(self, request: pytest.FixtureRequest) -> None:
        capability = getattr(request.function, "_timmx_requires", None)
        if capability is not None:
            support = getattr(registry.load(self.backend).capabilities, capability)
            if support is not True:
                pytest.skip(f"{self.backend} declares that it cannot ({capability}): {support}")

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def some_export_check_ran(cls, request: pytest.FixtureRequest) -> Iterator[None]:
        """Fail the class if export checks were collected and all of them were skipped."""
        yield
        collected = [
            item
            for item in request.session.items
            if isinstance(item, pytest.Function) and item.cls is cls and hasattr(item.function, EXPORT_CHECK)
        ]
        if collected and not cls._export_checks_run:
            pytest.fail(f"No export check of {cls.backend} ran: its files are not verified.")

    @pytest.fixture
    def export(
        self, subject: ExportBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., ExportResult]:
        """Export a model, by default an awakened one, into an empty folder from another empty folder."""
        work = tmp_path / "work"
        work.mkdir()
        monkeypatch.chdir(work)

        def run(
            model: Any = "test_resnet", name: str = "model", folder: Path | None = None, **options: Any
        ) -> ExportResult:
            if isinstance(model, str) and "checkpoint" not in options:
                model = small_model(model)
            if folder is None:
                folder = tmp_path / "out"
                folder.mkdir(exist_ok=True)
            further = self.dynamic_batch_options if options.get("dynamic_batch") else {}
            chosen = dict(self.export_options) | further | options
            if "output" not in chosen:
                chosen["output"] = folder / f"{name}{output_suffix(subject, chosen)}"
            return subject.create_command()(model=model, **chosen)

        return run

    @pytest.fixture(scope="class")
    @classmethod
    def _kept(cls) -> dict[Any, Any]:
        """What the checks of this class share: exports of `exported`, `classifier` and `repeated`."""
        return {}

    @pytest.fixture
    def exported(
        self,
        export: Callable[..., ExportResult],
        _kept: dict[Any, Any],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Callable[..., ExportResult]:
        """Like `export`, but each export is made once and shared by checks, which must not change it."""

        def run(model: str = "test_resnet", **options: Any) -> ExportResult:
            key = (model, *sorted(options.items()))
            if key not in _kept:
                _kept[key] = export(model, folder=tmp_path_factory.mktemp("exported"), **options)
            kept: ExportResult = _kept[key]
            return kept

        return run

    @pytest.fixture
    def classifier(
        self,
        export: Callable[..., ExportResult],
        _kept: dict[Any, Any],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> ExportResult:
        """A checkpoint with labels, exported with normalization and softmax in the file; checks must not change it."""
        if "classifier" not in _kept:
            from safetensors.torch import save_model

            folder = tmp_path_factory.mktemp("classifier")
            weights = tmp_path_factory.mktemp("checkpoint") / "weights.safetensors"
            save_model(awakened_model("test_resnet", num_classes=len(LABELS)), str(weights))
            _kept["classifier"] = export(
                "test_resnet",
                folder=folder,
                checkpoint=weights,
                num_classes=len(LABELS),
                labels=LABELS,
                normalize=True,
                softmax=True,
            )
        classifier: ExportResult = _kept["classifier"]
        return classifier

    @pytest.fixture
    def repeated(
        self,
        export: Callable[..., ExportResult],
        exported: Callable[..., ExportResult],
        _kept: dict[Any, Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Repeated:
        """The export of `exported()` once more, in empty folders that are looked through afterwards."""
        if "repeated" not in _kept:
            first = exported()
            (tmp_path / "home").mkdir()
            monkeypatch.setenv("HOME", str(tmp_path / "home"))
            # An artifact of several files names its companions inside, so it keeps its name.
            result = export(name="again" if len(first.files) == 1 else first.path.stem)
            known = {*result.files, *(tmp_path / name for name in ("home", "work", "out"))}
            elsewhere = [
                *(path for path in tmp_path.iterdir() if path not in known),
                *(
                    path
                    for name in ("work", "out")
                    for path in (tmp_path / name).iterdir()
                    if path not in known
                ),
            ]
            _kept["repeated"] = Repeated(result, tuple(elsewhere))
        repeated: Repeated = _kept["repeated"]
        return repeated


def output_suffix(subject: ExportBackend, options: dict[str, Any]) -> str:
    """The suffix of the file that a backend writes with these options, shared ones among them."""
    from timmx.registry import build, option_specs

    own = {name: value for name, value in options.items() if name in option_specs(subject.options)}
    return subject.output_suffix(build(subject.options, own))


def metadata_of(result: ExportResult) -> Metadata:
    """The artifact's metadata, checked."""
    return Metadata.parse(result.path, result.metadata)


def open_or_skip(subject: ExportBackend, path: Path) -> Runner:
    """Open the artifact in its runtime; skip the check, with the reason, if the runtime is not available."""
    try:
        return subject.open(path, OpenSettings())
    except RuntimeUnavailable as exc:
        pytest.skip(f"the artifact cannot be run here: {exc.message}")
