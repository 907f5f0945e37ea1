"""Exports one model to its formats, in a child process; all formats share one load and one capture.

What the child is asked for and reports is in `task.py`.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from timmx.artifact import staging
from timmx.base import Reporter, peak_resident_bytes, reporter, reporting, reset_peak
from timmx.errors import TimmxError, VerificationError, error_dict
from timmx.exporting import (
    ModelSession,
    Target,
    calibration_data,
    export_session,
    plan_separately,
)
from timmx.sweep.cell import CellStatus
from timmx.sweep.choices import Keep
from timmx.sweep.kept_files import KeptFiles
from timmx.sweep.task import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from timmx.exporting import ExportResult
    from timmx.sweep.task import Task


def run_task(task: Task, send: Callable[[Event, Mapping[str, Any]], None]) -> None:
    """Export a model to all targets of a task, and report each.

    An error is reported, never raised: the next target is tried.
    """
    with reporting(_Steps(send)):
        files = KeptFiles(task)
        try:
            planned = plan_separately(task.model.name, task.targets, files.folder, **task.options)
            exports: list[tuple[int, Target]] = []
            for number in task.todo:
                item = planned[number]
                if isinstance(item, Target):
                    exports.append((number, item))
                else:
                    send(Event.ENDED, {"cell": number, **failure(item)})
            if not exports:
                return
            busy = _cpu_seconds()
            session = _load(task, exports[0][1])
            send(Event.LOADED, _facts(session) | {"shared_cpu_seconds": round(_cpu_seconds() - busy, 3)})
        except Exception as exc:  # a model may raise anything
            send(Event.BROKEN, failure(exc))
            return
        measure = _Accuracy(task)
        for number, target in exports:
            send(Event.STARTED, {"cell": number})
            reset_peak()
            start, busy = time.perf_counter(), _cpu_seconds()
            try:
                result = _export(session, target, task, files)
                values = _values(result, measure)
                values["file"] = files.keep(target, result)
            except Exception as exc:  # a converter may raise anything
                values = failure(exc)
            measured = {
                "seconds": round(time.perf_counter() - start, 3),
                "cpu_seconds": round(_cpu_seconds() - busy, 3),
                "memory_bytes": peak_resident_bytes(),
            }
            send(Event.ENDED, {"cell": number, **values, **measured})


def _cpu_seconds() -> float:
    """Processor time of this process and of the processes that it has started and waited for."""
    return sum(os.times()[:4])


def failure(exc: Exception) -> dict[str, Any]:
    """The values of a cell that ends with an exception."""
    error = error_dict(exc)
    status = (
        CellStatus.FAILED
        if isinstance(exc, VerificationError)
        else CellStatus.REFUSED
        if isinstance(exc, TimmxError)
        else CellStatus.ERROR
    )
    values = {"status": status, "kind": error["type"], "message": error["message"], "hint": error["hint"]}
    return values | _figures(error.get("verification", {}))


def _load(task: Task, target: Target) -> ModelSession:
    if task.threads:
        import torch

        torch.set_num_threads(task.threads)
    session = ModelSession(
        replace(target.request, output=None), calibration_data=calibration_data([target.options])
    )
    session.prepare()
    return session


def _facts(session: ModelSession) -> dict[str, Any]:
    from timmx.model import load_index

    loaded = session.loaded
    index = load_index()
    indexed = index.models.get(loaded.architecture) if index else None
    return {
        "family": indexed.family if indexed else "",
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "weights": "trained" if loaded.trained else "awakened" if loaded.awakened else "untrained",
    }


def _export(session: ModelSession, target: Target, task: Task, files: KeptFiles) -> ExportResult:
    with staging(target.path) as stage:
        try:
            return export_session(
                target.backend,
                session.with_batch(target.request),
                target.options,
                stage,
                record=task.keep is not Keep.NONE,
            )
        except VerificationError:
            files.keep_rejected(stage.path.parent)
            raise


def _values(result: ExportResult, measure: _Accuracy) -> dict[str, Any]:
    report = result.verification
    return {
        "status": CellStatus(report.status.value),
        "message": report.reason or "",
        "precision": str(result.precision),
        "size_bytes": result.size_bytes,
        **_figures(report.to_dict()),
        **measure.of(result.path),
        "notes": [*result.notes, *measure.notes],
    }


def _figures(report: Mapping[str, Any]) -> dict[str, Any]:
    names = ("snr_db", "floor_db", "top1_agreement")
    return {name: report[name] for name in names if report.get(name) is not None}


class _Accuracy:
    """Measures files on labeled images; the PyTorch model once, with the first of them."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._of_model: float | None = None
        self.notes: list[str] = []

    def of(self, path: Path) -> dict[str, Any]:
        """The accuracy of a file, and that of the model."""
        data, options = self._task.data, self._task.options
        self.notes = []
        if data is None:
            return {}
        from timmx.contract import MODEL_OPTIONS
        from timmx.tools.eval import Evaluation, evaluate

        own = {name: options[name] for name in MODEL_OPTIONS if name in options}
        compares = self._of_model is None
        reporter().step("Measuring accuracy")
        try:
            evaluation = evaluate(
                path,
                data,
                against=self._task.model.name if compares else None,
                model_options=own if compares else None,
            )
        except TimmxError as exc:  # the file is verified, but these images are not for it
            self.notes.append(f"accuracy was not measured: {exc.message}")
            return {}
        if not isinstance(evaluation, Evaluation):
            self.notes.append("accuracy was not measured: the classes do not exclude each other")
            return {}
        if evaluation.against is not None:
            self._of_model = evaluation.against.top1
        return {"accuracy": evaluation.top1, "model_accuracy": self._of_model}


class _Steps(Reporter):
    """Reports steps to the parent; warnings are in the results."""

    def __init__(self, send: Callable[[Event, Mapping[str, Any]], None]) -> None:
        self._send = send

    def step(self, text: str) -> None:
        self._send(Event.STEP, {"text": text})
