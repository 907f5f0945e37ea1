"""Checks without an export: names, options, help, and a light import."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING

import importlib_metadata
import pytest
import typer
from packaging.requirements import Requirement
from typer.testing import CliRunner

from timmx import registry
from timmx.contract import SUPPORTED_CONTRACTS, Capabilities, ExportRequest, Problem
from timmx.errors import ConfigurationError
from timmx.registry import REQUIRED, option_specs
from timmx.testing.base import ConformanceBase, output_suffix

if TYPE_CHECKING:
    from timmx.contract import ExportBackend
    from timmx.testing.base import FreshPython

_HEAVY = ("torch", "timm", "torchvision", "numpy", "onnx", "jax", "tensorflow", "coremltools", "scipy")


class StaticChecks(ConformanceBase):
    """What can be checked without an export."""

    def test_entry_point_resolves(self) -> None:
        entry = registry.find(self.backend)
        assert entry.state is registry.State.AVAILABLE, entry.reason
        assert registry.load(self.backend).name == entry.name == self.backend.rpartition(":")[2]

    def test_contract_is_a_literal_of_its_own(self, subject: ExportBackend) -> None:
        classes = [cls for cls in type(subject).__mro__ if isinstance(cls.__dict__.get("contract"), int)]
        assert classes, "set `contract = 1` in the class: the version that the backend was written for"
        assert subject.contract in SUPPORTED_CONTRACTS

    def test_help_and_summary_are_there(self, subject: ExportBackend) -> None:
        assert subject.help.strip(), "`help` is the first line of `timmx <name> --help`"
        assert registry.find(self.backend).summary.strip(), (
            "the wheel's `description` is its row in timmx --help"
        )

    def test_suffixes_are_distinct_and_the_default_is_one_of_them(self, subject: ExportBackend) -> None:
        assert isinstance(subject.suffixes, tuple)
        assert subject.suffixes
        for suffix in subject.suffixes:
            assert suffix.startswith(".")
            assert len(suffix) > 1
        assert len(set(subject.suffixes)) == len(subject.suffixes)
        assert output_suffix(subject, {}) in subject.suffixes

    def test_options_are_explicit_and_documented(self, subject: ExportBackend) -> None:
        options = subject.options
        assert dataclasses.is_dataclass(options), "`options` is a frozen dataclass"
        assert options.__dataclass_params__.frozen, "`options` is a frozen dataclass"  # type: ignore[attr-defined]
        for name, spec in option_specs(options).items():
            assert spec.flag, f"{name} names its flag in typer.Option"
            assert spec.help, f"{name} has a help text"
            has_default = spec.default is not REQUIRED
            assert has_default, f"{name} has a default, so that the command works without it"
        clashes = option_specs(ExportRequest).keys() & option_specs(options).keys()
        assert not clashes, f"{sorted(clashes)} are already shared options of all backends"

    def test_command_has_no_catch_all(self, subject: ExportBackend) -> None:
        kinds = {item.kind for item in inspect.signature(subject.create_command()).parameters.values()}
        assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}, (
            "options are explicit: no **kwargs"
        )

    def test_command_is_typer_compatible(self, subject: ExportBackend) -> None:
        app = typer.Typer()
        app.command()(subject.create_command())
        shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300", "NO_COLOR": "1"})
        assert shown.exit_code == 0, shown.output
        for spec in option_specs(subject.options).values():
            assert spec.flag in shown.output

    def test_unknown_option_is_refused(self, subject: ExportBackend) -> None:
        with pytest.raises(ConfigurationError, match="no_such_option"):
            subject.create_command()(model="test_resnet", no_such_option=1)

    def test_import_is_light(self, fresh_python: FreshPython) -> None:
        heavy = sorted({*_HEAVY, *self._required_modules()} - set(self.light_modules))
        code = (
            "import sys\n"
            "from timmx import registry\n"
            "registry.load(sys.argv[1]).create_command()\n"
            "print(*sorted(set(sys.argv[2:]) & sys.modules.keys()), file=sys.stderr)\n"
        )
        done = fresh_python(code, self.backend, *heavy)
        assert not done.stderr.strip(), (
            f"`timmx {self.backend} --help` would import {done.stderr.strip()}: import it inside the methods"
        )

    def test_import_is_silent(self, fresh_python: FreshPython) -> None:
        module = registry.find(self.backend).target.partition(":")[0]
        done = fresh_python("import sys, importlib; importlib.import_module(sys.argv[1])", module)
        assert done.stdout == ""
        assert done.stderr == ""

    def test_environment_is_described_and_never_raises(self, subject: ExportBackend) -> None:
        for problem in subject.check_environment():
            assert isinstance(problem, Problem)
            assert problem.message
            assert problem.fix

    def test_capabilities_are_true_or_a_reason(self, subject: ExportBackend) -> None:
        assert isinstance(subject.capabilities, Capabilities)
        for field in dataclasses.fields(subject.capabilities):
            support = getattr(subject.capabilities, field.name)
            assert support is True or (isinstance(support, str) and support.strip()), (
                f"capabilities.{field.name} is True, or the reason why not"
            )

    def _required_modules(self) -> set[str]:
        """The import packages of the distribution's requirements."""
        distribution = importlib_metadata.distribution(registry.find(self.backend).distribution)
        required = [Requirement(text) for text in distribution.requires or ()]
        names = {
            requirement.name.lower().replace("_", "-")
            for requirement in required
            if not requirement.marker or requirement.marker.evaluate({"extra": ""})
        }
        return {
            module
            for module, owners in importlib_metadata.packages_distributions().items()
            if names & {owner.lower().replace("_", "-") for owner in owners}
        }
