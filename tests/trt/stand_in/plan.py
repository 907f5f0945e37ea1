"""The stand-in's plan and timing cache: bytes with a mark, a header in JSON, and for a plan the ONNX."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

PLAN_MARK = b"stand-in plan\0"
CACHE_MARK = b"stand-in timing cache\0"


@dataclass(frozen=True)
class Plan:
    version: str
    device: str
    network_name: str
    flags: list[str]
    hardware_compatibility: str
    profiling_verbosity: str
    profiles: list[dict[str, list[list[int]]]]
    """For each profile the shapes of each input: min, opt, max."""
    onnx: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        header = {key: value for key, value in asdict(self).items() if key != "onnx"}
        return PLAN_MARK + json.dumps(header).encode() + b"\0" + self.onnx

    @classmethod
    def from_bytes(cls, content: bytes) -> Plan | None:
        """None if the bytes are not a plan."""
        if not content.startswith(PLAN_MARK):
            return None
        header, separator, onnx = content[len(PLAN_MARK) :].partition(b"\0")
        try:
            return cls(**json.loads(header), onnx=onnx) if separator else None
        except (ValueError, TypeError):
            return None


@dataclass
class Timings:
    """The content of a timing cache."""

    version: str
    device: str
    entries: list[str] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        return CACHE_MARK + json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Timings | None:
        """None if the bytes are not a timing cache."""
        try:
            return cls(**json.loads(content[len(CACHE_MARK) :])) if content.startswith(CACHE_MARK) else None
        except (ValueError, TypeError):
            return None
