"""Opens damaged copies of an artifact, and says which of them were not handled as they must be."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from security_mutations import MARKER, mutate

if TYPE_CHECKING:
    from pathlib import Path

    from security_server import Server


@dataclass
class Outcome:
    """What the commands did with damaged copies of one artifact.

    Attributes:
        counts: of (command, `answer`, `error`, `internal error` or `crash`).
        faults: what must not happen, with the number of the mutation.
        crashes: what `timmx` says about runtimes that ended the process.
        slowest: in seconds.
        largest: resident memory in bytes.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    crashes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0


def fuzz(server: Server, source: Path, image: Path, folder: Path, numbers: range) -> Outcome:
    """Open damaged copies with `timmx inspect` and `timmx predict`.

    Args:
        server: runs the commands.
        source: the artifact; the files that belong to it are next to it, and begin with its name.
        image: for `predict`.
        folder: an empty folder, in which each copy gets a folder of its own.
        numbers: of the mutations; each number is one mutation.
    """
    outcome = Outcome()
    (folder / "untouched").write_text("untouched")
    for number in numbers:
        place = folder / "copy"
        place.mkdir()
        path = place / source.name
        change = mutate(source, path, random.Random(f"{source.name} {number}"))
        shutil.copy(image, place / "image.png")
        before = _state(folder)
        for command in (["inspect", path.name], ["predict", path.name, "image.png"]):
            result = server.run(place, *command)
            what = f"{source.name} {number} ({change}) {command[0]}"
            kind, fault = judge(command[0], result)
            outcome.counts[command[0], kind] += 1
            if result["crash"]:
                outcome.crashes[result["crash"]] += 1
            if fault:
                outcome.faults.append(f"{what}: {fault}")
            if _state(folder) != before:
                outcome.faults.append(f"{what}: files were written: {_state(folder) ^ before}")
            outcome.slowest = max(outcome.slowest, result["cpu_seconds"])
            outcome.largest = max(outcome.largest, result["resident"])
        shutil.rmtree(place)
    return outcome


def judge(command: str, result: dict[str, Any]) -> tuple[str, str]:
    """What a command did, and what is wrong with it; the second is empty if nothing is."""
    errors = [line for line in result["stderr"].splitlines() if line.startswith("error:")]
    text = " | ".join(errors) or result["stderr"][-300:]
    if result["limit"]:
        return "limit", f"ended by the limit of {result['limit']}, {result['resident']} bytes"
    if result["exit"] < 0:
        named = re.search(r"^(?!Python).* crashed \(SIG\w+\) after it was given", result["crash"])
        return (
            "crash",
            "" if named and command != "inspect" else f"signal {-result['exit']}: {result['crash']}",
        )
    if result["exit"] == 0:
        return "answer", "" if not errors else f"exit 0 with {text}"
    if result["exit"] != 2:
        return "internal error", f"exit {result['exit']}: {text}"
    return "error", "" if len(errors) == 1 else f"{len(errors)} error lines: {text}"


def _state(folder: Path) -> set[tuple[str, int, int]]:
    """Names, sizes and times of all files in a folder."""
    state = set()
    for parent, _, files in os.walk(folder):
        for name in files:
            info = os.lstat(os.path.join(parent, name))  # noqa: PTH118 - called 10,000 times
            state.add((f"{parent}/{name}", info.st_size, info.st_mtime_ns))
            assert MARKER not in name, "code of a file was run"
    return state
