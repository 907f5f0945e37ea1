"""The conformance kit: a good backend passes, and a backend with a fault fails the check for that fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from plugins import install_plugin
from timmx.registry import discovery as registry
from timmx.testing.base import EXPORT_CHECK
from timmx.testing.static import StaticChecks

SOURCE = (Path(__file__).parent / "loopback.py").read_text("utf-8")

AUTHORS_TEST = """
from timmx.testing import BackendConformance

class TestLoopback(BackendConformance):
    backend = "loopback"
"""

FAULTS = {
    "imports torch": "test_import_is_light",
    "prints on import": "test_import_is_silent",
    "mutable options": "test_options_are_explicit_and_documented",
    "undocumented option": "test_options_are_explicit_and_documented",
    "takes a shared option's name": "test_options_are_explicit_and_documented",
    "options through **kwargs": "test_command_has_no_catch_all",
    "states no contract": "test_contract_is_a_literal_of_its_own",
    "says nothing of itself": "test_help_and_summary_are_there",
    "suffix without a dot": "test_suffixes_are_distinct_and_the_default_is_one_of_them",
    "cannot without a reason": "test_capabilities_are_true_or_a_reason",
    "raises in check_environment": "test_environment_is_described_and_never_raises",
    "computes wrong numbers": "test_numbers_at_a_static_batch",
    "freezes the batch": "test_numbers_at_several_batch_sizes",
    "mixes the rows of a batch": "test_rows_do_not_touch_each_other",
    "loses metadata": "test_labels_travel",
    "writes the final file itself": "test_failure_leaves_what_was_there",
    "writes elsewhere": "test_nothing_is_written_elsewhere",
    "leaves a by-product next to the file": "test_export",
    "writes other bytes each time": "test_same_bytes_twice",
    "lets library errors through": "test_damaged_files_are_reported",
    "gives intermediate values of another run": "test_intermediate_values_lead_to_the_output",
    "describes another artifact": "test_runner_describes_the_artifact",
    "states another layout than it takes": "test_runner_describes_the_artifact",
}


ONE_MODEL = " and not efficientnet and not test_vit"
"""Leaves out the other models of checks that run with several."""

MODELS = pytest.mark.parametrize(
    "models", [ONE_MODEL, pytest.param("", marks=pytest.mark.slow)], ids=["one model", "all models"]
)


class Outcomes:
    """The outcomes of one run; a plugin of the inner pytest.

    pytester is not used: it takes what was imported meanwhile out of `sys.modules`, and torch does not survive that.
    """

    def __init__(self) -> None:
        self.reports: list[pytest.TestReport] = []
        self.collected: list[pytest.Function] = []

    def pytest_itemcollected(self, item: pytest.Function) -> None:
        self.collected.append(item)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(report)

    def checks(self, outcome: str) -> set[str]:
        return {
            report.nodeid.split("::")[2].split("[")[0] for report in self.reports if report.outcome == outcome
        }

    @property
    def said(self) -> str:
        return "\n".join(report.longreprtext for report in self.reports if report.outcome == "failed")


@pytest.fixture
def run_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install the loopback backend with a fault, and run the checks that match an expression."""
    site, project = tmp_path / "site", tmp_path / "project"
    project.mkdir()

    def run(fault: str = "", checks: str = "", test: str = AUTHORS_TEST) -> Outcomes:
        source = SOURCE.replace('FAULT = ""', f"FAULT = {fault!r}", 1)
        install_plugin(site, "loopback", source, target="timmx_loopback:Loopback")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setenv("PYTHONPATH", str(site))
        registry.entries.cache_clear()
        (project / "pytest.ini").write_text("[pytest]\nmarkers = device: needs a CUDA device\n")
        (project / "test_author.py").write_text(test)
        outcomes = Outcomes()
        arguments = ["-p", "no:cacheprovider", "-p", "no:terminal", "--import-mode=importlib"]
        pytest.main([*arguments, "-k", checks, str(project)], plugins=[outcomes])
        assert outcomes.reports
        return outcomes

    yield run
    registry.entries.cache_clear()
    for name in [name for name in sys.modules if name.startswith(("timmx_loopback", "test_author"))]:
        del sys.modules[name]


def test_a_good_backend_passes_every_check(process, export, run_kit):
    outcomes = run_kit()
    assert not outcomes.checks("failed"), outcomes.said
    assert outcomes.checks("skipped") == {"test_export_on_cuda"}
    assert len(outcomes.checks("passed")) > 30


@MODELS
def test_a_backend_with_quantized_nhwc_files_passes_every_check(export, run_kit, models):
    test = AUTHORS_TEST + "    export_options = {'quantized': True}\n"
    checks = "not (embedding or odd or checkpoint or failure or folder or import or tools)"
    outcomes = run_kit(checks=checks + models, test=test)
    assert not outcomes.checks("failed"), outcomes.said
    assert {"test_runner_describes_the_artifact", "test_feature_pyramid"} <= outcomes.checks("passed")


@MODELS
def test_a_backend_that_always_normalizes_passes_the_parity_checks(export, run_kit, models):
    test = AUTHORS_TEST + "    export_options = {'normalize': True}\n"
    outcomes = run_kit(checks="(numbers or rows or runner)" + models, test=test)
    assert not outcomes.checks("failed"), outcomes.said
    assert "test_numbers_at_several_batch_sizes" in outcomes.checks("passed")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_backend_fails_the_check_for_its_fault(run_kit, fault):
    outcomes = run_kit(fault, FAULTS[fault] + ONE_MODEL)
    assert FAULTS[fault] in outcomes.checks("failed"), outcomes.reports


def test_a_deleted_check_is_reported(run_kit):
    outcomes = run_kit(checks="lost", test=AUTHORS_TEST + "    test_export = None\n")
    assert "test_export: a standard check was deleted" in outcomes.said


def test_a_replaced_check_without_a_reason_is_reported(run_kit):
    replaced = AUTHORS_TEST + "    def test_embedding(self): ...\n"
    assert (
        "test_embedding: a standard check was deleted or replaced"
        in run_kit(checks="lost", test=replaced).said
    )


def test_a_replaced_check_with_a_reason_is_accepted(run_kit):
    replaced = (
        AUTHORS_TEST + "    overridden = {'test_embedding': 'tested elsewhere'}\n    test_embedding = None\n"
    )
    assert not run_kit(checks="lost", test=replaced).checks("failed")


def test_a_class_whose_export_checks_were_all_skipped_fails(run_kit):
    skipping = AUTHORS_TEST + (
        "    def test_embedding(self):\n"
        "        import pytest\n"
        "        pytest.skip('not today')\n"
        "    test_embedding._timmx_export_check = True\n"
        "    overridden = {'test_embedding': 'skips'}\n"
    )
    assert "No export check of loopback ran" in run_kit(checks="test_embedding", test=skipping).said


def test_checks_without_an_export_are_collected_first(run_kit):
    collected = run_kit(checks="entry_point").collected
    exporting = [item.originalname for item in collected if hasattr(item.function, EXPORT_CHECK)]
    static = [name for name in dir(StaticChecks) if name.startswith("test_")]
    names = [item.originalname for item in collected]
    assert set(names[: len(static) + 1]) == {*static, "test_no_standard_check_is_lost"}
    assert names.index(exporting[0]) > names.index("test_bad_options_are_refused")


def test_a_failed_assertion_shows_its_values(run_kit):
    """Also without a message in the assertion."""
    outcomes = run_kit("suffix without a dot", "suffixes_are_distinct")
    assert "where False = <built-in method startswith of str object" in outcomes.said


def test_a_failed_export_check_captures_no_torch_trace(run_kit):
    failing = AUTHORS_TEST + (
        "    overridden = {'test_embedding': 'fails'}\n"
        "    def test_embedding(self, export):\n"
        "        export(dynamic_batch=True)\n"
        "        assert False\n"
    )
    (report,) = (report for report in run_kit(checks="embedding", test=failing).reports if report.failed)
    assert "torch.__trace" not in report.caplog


def test_without_pytest_the_kit_names_the_extra(process):
    code = "import sys; sys.modules['pytest'] = None; import timmx.testing"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    assert "ImportError: timmx.testing needs pytest, which is not installed" in done.stderr
    assert "hint: uv pip install 'timmx-core[testing]'" in done.stderr


def test_a_missing_capability_skips_with_the_backends_own_reason(run_kit):
    (report, *_) = [
        item for item in run_kit(checks="test_export_on_cuda").reports if item.outcome == "skipped"
    ]
    assert "it is only a test" in str(report.longrepr)
