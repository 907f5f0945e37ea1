"""One cell of a sweep: the result of one model in one format, as a line of the journal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from timmx.base import brief


class CellStatus(StrEnum):
    """How a cell ended: as its verification, or why there is none."""

    VERIFIED = "verified"
    UNPROVEN = "unproven"
    SKIPPED = "skipped"
    FAILED = "failed"
    REFUSED = "refused"
    ERROR = "error"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    MEMORY = "memory"

    @property
    def passed(self) -> bool:
        """Whether a file was written."""
        return self in (CellStatus.VERIFIED, CellStatus.UNPROVEN, CellStatus.SKIPPED)

    @property
    def words(self) -> str:
        """What it means, for tables."""
        return _TITLES[self]


_TITLES = {
    CellStatus.VERIFIED: "verified",
    CellStatus.UNPROVEN: "unproven",
    CellStatus.SKIPPED: "not verified",
    CellStatus.FAILED: "below the floor",
    CellStatus.REFUSED: "refused",
    CellStatus.ERROR: "internal error",
    CellStatus.CRASHED: "crashed",
    CellStatus.TIMEOUT: "time limit",
    CellStatus.MEMORY: "memory limit",
}


class InvalidCell(Exception):  # noqa: N818 - becomes an error with the line of the journal
    """The first value of a journal's line that is not valid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The result of one model in one format.

    Attributes:
        model: the model's label.
        target: the target as it was given, such as `litert:mode=int8`.
        backend: the backend's name.
        key: a hash of what determines the result, without versions; see `SweepPlan.key`.
        status: how it ended.
        family: the module of timm that defines the model; empty if it is unknown.
        parameters: number of parameters; None if the model was not loaded.
        weights: `trained`, `awakened` or `untrained`; empty if the model was not loaded.
        precision: the file's arithmetic; empty if none was written.
        size_bytes: size of all its files; None if none was written.
        snr_db: of the verification; None if there is none.
        floor_db: the floor that applied; None if none did.
        top1_agreement: of the verification, 0 to 1.
        accuracy: top-1 accuracy of the file on `--data`, 0 to 1; None without it.
        model_accuracy: of the PyTorch model, likewise.
        latency_ms: median latency of the file; None if it was not measured.
        latency_p90_ms: 90th percentile of the latency.
        latency_on: the processor of the machine that measured it; empty if it was not measured.
        file: its path in the sweep's folder or storage; empty if it was not kept.
        kind: the type of the error; empty if there is none.
        message: the error in one line, or why a file is unproven.
        hint: how to fix it.
        command: the command that repeats it.
        seconds: wall time, without the steps that all formats of the model share.
        cpu_seconds: processor time of the same steps, of all threads and processes; None if it was not measured.
        shared_cpu_seconds: processor time of loading and preparing the model, which its cells share.
        memory_bytes: largest resident memory of its process; None if it was not measured.
        notes: notes for the user.
        versions: versions that the result depends on, by distribution.
        ended: when it ended, ISO 8601 in UTC.
        node: the host name of the cluster's node that ran it; empty without a cluster.
    """

    model: str
    target: str
    backend: str
    key: str
    status: CellStatus
    family: str = ""
    parameters: int | None = None
    weights: str = ""
    precision: str = ""
    size_bytes: int | None = None
    snr_db: float | None = None
    floor_db: float | None = None
    top1_agreement: float | None = None
    accuracy: float | None = None
    model_accuracy: float | None = None
    latency_ms: float | None = None
    latency_p90_ms: float | None = None
    latency_on: str = ""
    file: str = ""
    kind: str = ""
    message: str = ""
    hint: str = ""
    command: str = ""
    seconds: float = 0.0
    cpu_seconds: float | None = None
    shared_cpu_seconds: float | None = None
    memory_bytes: int | None = None
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    ended: str = ""
    node: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Its row and column."""
        return self.model, self.target

    def to_json(self) -> dict[str, Any]:
        """JSON values; those that have their default are left out."""
        values: dict[str, Any] = {}
        for name, (_, default) in _FIELDS.items():
            value = getattr(self, name)
            if name in _REQUIRED or value != default:
                values[name] = _json_value(value)
        return values

    @classmethod
    def from_json(cls, content: Any) -> Cell:
        """A cell from the JSON values of a journal; unknown keys are ignored.

        Raises:
            InvalidCell: a value is missing or has another type.
        """
        if not isinstance(content, Mapping):
            raise InvalidCell(f"{brief(content)} is not a cell")
        values: dict[str, Any] = {}
        for name, (check, _) in _FIELDS.items():
            if name not in content:
                if name in _REQUIRED:
                    raise InvalidCell(f"a cell has no {name}")
                continue
            value = content[name]
            if not check(value):
                raise InvalidCell(f"{name} is {brief(value)}")
            values[name] = value
        try:
            values["status"] = CellStatus(values["status"])
        except ValueError:
            raise InvalidCell(f"status is {brief(values['status'])}") from None
        for name in ("snr_db",):
            if isinstance(values.get(name), str):
                values[name] = float(values[name])
        values["notes"] = tuple(values.get("notes", ()))
        return cls(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _is_ratio(value: Any) -> bool:
    return _is_number(value) or value in ("inf", "-inf", "nan")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


_REQUIRED = ("model", "target", "backend", "key", "status")

_FIELDS: dict[str, tuple[Any, Any]] = {
    **dict.fromkeys((*_REQUIRED, "family"), (_is_text, "")),
    "parameters": (_is_count, None),
    **dict.fromkeys(("weights", "precision"), (_is_text, "")),
    "size_bytes": (_is_count, None),
    "snr_db": (_is_ratio, None),
    **dict.fromkeys(("floor_db", "top1_agreement", "accuracy", "model_accuracy"), (_is_number, None)),
    **dict.fromkeys(("latency_ms", "latency_p90_ms"), (_is_number, None)),
    **dict.fromkeys(("latency_on", "file", "kind", "message", "hint", "command"), (_is_text, "")),
    "seconds": (lambda value: _is_number(value) and value is not None, 0.0),
    **dict.fromkeys(("cpu_seconds", "shared_cpu_seconds"), (_is_number, None)),
    "memory_bytes": (_is_count, None),
    "notes": (_is_texts, ()),
    "versions": (_is_table, {}),
    **dict.fromkeys(("ended", "node"), (_is_text, "")),
}
"""The keys of a line in their order: the check of a value, and its default."""


def _json_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
