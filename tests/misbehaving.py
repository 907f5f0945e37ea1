"""A small backend: one option makes it crash, hang, take memory, or write wrong numbers."""

from __future__ import annotations

SOURCE = """
import json
import os
import signal
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from timmx.plugin import (
    ExportBackend, Exported, Metadata, Precision, Runner, RuntimeUnavailable, TensorSpec, UnsupportedError,
)


class Do(StrEnum):
    OK = "ok"
    CRASH = "crash"
    CRASH_LATER = "crash-later"
    HANG = "hang"
    MEMORY = "memory"
    WRONG = "wrong"
    REFUSE = "refuse"
    RAISE = "raise"
    FULL = "full"
    SLOW = "slow"


@dataclass(frozen=True)
class Options:
    do: Annotated[Do, typer.Option("--do", help="What to do.")] = Do.OK
    also: Annotated[Path | None, typer.Option("--also", help="A further file to write.")] = None


class Backend(ExportBackend):
    contract = 1
    name = "{name}"
    help = "A test format."
    suffixes = (".{name}",)
    options = Options
    toolchain = ("numpy",)

    def extra_outputs(self, options, output):
        return (options.also,) if options.also else ()

    def export(self, job, options):
        count = int(os.environ.get("SWEEP_COUNT", "0"))
        os.environ["SWEEP_COUNT"] = str(count + 1)
        with open(job.path.parent / "temporary", "w") as file:
            file.write("x")
        (job.path.parent / "temporary").unlink()
        match options.do:
            case Do.CRASH:
                os.kill(os.getpid(), signal.SIGSEGV)
            case Do.CRASH_LATER if count:
                os.kill(os.getpid(), signal.SIGSEGV)
            case Do.HANG:
                job.path.write_text("half")
                time.sleep(600)
            case Do.MEMORY:
                held = bytearray(3_000_000_000)
                for start in range(0, len(held), 4096):
                    held[start] = 1
                time.sleep(600)
            case Do.REFUSE:
                raise UnsupportedError("this format has no operation 17", hint="use another format")
            case Do.RAISE:
                raise ValueError("not a graph")
            case Do.FULL:
                raise OSError(28, "No space left on device", str(job.path))
            case Do.SLOW:
                time.sleep(float(os.environ.get("SWEEP_SLOW", "5")))
        job.path.write_text(json.dumps({"do": options.do, "metadata": job.metadata(Precision.FP32).dumps()}))
        return Exported(precision=Precision.FP32)

    def read_metadata(self, path):
        return json.loads(json.loads(path.read_text())["metadata"])

    def open(self, path, settings):
        if json.loads(path.read_text())["do"] != "wrong":
            raise RuntimeUnavailable("this format has no runtime")
        return Wrong(Metadata.parse(path, self.read_metadata(path)))


class Wrong(Runner):
    def __init__(self, metadata):
        import numpy as np
        size = metadata.input.size
        self.inputs = (TensorSpec(name="input", shape=(1, *size), dtype="float32", layout="NCHW"),)
        (output,) = metadata.outputs
        self.outputs = (TensorSpec(name=output.name, shape=tuple(output.shape), dtype="float32"),)
        self._random = np.random.default_rng(0)

    def run(self, feeds):
        (output,) = self.outputs
        return {output.name: self._random.normal(size=output.shape).astype("float32")}
"""
