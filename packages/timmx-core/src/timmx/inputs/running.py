"""Runs a runner on float inputs in batches, and compares what it reports of itself with what is expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from timmx.errors import ArtifactError, TimmxError
from timmx.inputs.conversion import feed, fetch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from timmx.contract import Metadata, Runner


def run_batches(
    runner: Runner,
    inputs: np.ndarray,
    outputs: Sequence[str],
    batch_size: int | None = None,
    what: object = "the artifact",
) -> dict[str, np.ndarray]:
    """The named outputs for any number of inputs, as real numbers.

    Args:
        inputs: (N, C, H, W) float32; see `feed`.
        outputs: names of outputs.
        batch_size: images per run; None runs all at once. A batch that is not full is filled with its last input,
            whose further outputs are dropped.
        what: names the artifact in messages.

    Returns:
        By output name, (N, ...); integers are converted as in `fetch`.

    Raises:
        ArtifactError: the runtime fails, or an output is missing.
        TimmxError: the runner's own.
    """
    (entry,) = runner.inputs
    specs = {spec.name: spec for spec in runner.outputs}
    size = batch_size or len(inputs)
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        missing = size - len(batch)
        if missing:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        feeds = {entry.name: feed(entry, batch)}
        try:
            found = runner.run(feeds)
        except TimmxError:
            raise
        except Exception as exc:  # a runtime may raise anything
            reason = " ".join(f"{type(exc).__name__}: {exc}".split())[:300]
            raise ArtifactError(f"{what} fails at a batch of {size}: {reason}") from exc
        absent = [name for name in outputs if name not in found]
        if absent:
            raise ArtifactError(f"{what} has no output {absent[0]!r}; it has {', '.join(found)}")
        real = {name: fetch(specs[name], found[name]) for name in outputs}
        parts.append({name: array[:-missing] for name, array in real.items()} if missing else real)
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in outputs}


def check_interface(path: Path, runner: Runner, metadata: Metadata) -> None:
    """Refuse a file whose runtime reports another input or other outputs than its metadata states.

    Raises:
        ArtifactError: they differ in names or sizes.
    """
    outputs = {output.name: output.shape for output in metadata.outputs}
    wrong = interface_mismatch(runner, metadata.input.size, outputs)
    if wrong:
        raise ArtifactError(
            f"{path} is damaged: its metadata states another input or other outputs than it has: {wrong}",
            hint="export it again",
        )


def interface_mismatch(
    runner: Runner, input_size: tuple[int, ...], outputs: Mapping[str, Sequence[int | str]]
) -> str:
    """How the input and outputs that a runner reports differ from the expected ones; empty where they agree.

    Sizes are compared as far as both are known. The batch is not compared.

    Args:
        input_size: (C, H, W) of the input called `input`.
        outputs: expected shapes by name, batch first.
    """
    nhwc = any(spec.layout == "NHWC" for spec in runner.inputs)
    entry: tuple[int | str, ...] = ("batch", *((*input_size[1:], input_size[0]) if nhwc else input_size))
    for what, specs, expected in (
        ("inputs", runner.inputs, {"input": entry}),
        ("outputs", runner.outputs, outputs),
    ):
        names = [spec.name for spec in specs]
        if sorted(names) != sorted(expected):
            return f"its {what} are {', '.join(names)}; expected {', '.join(expected)}"
        for spec in specs:
            if not _agree(spec.shape[1:], expected[spec.name][1:]):
                shape = tuple(expected[spec.name])
                return f"the shape of {spec.name} is {spec.shape}; expected {shape}"
    return ""


def _agree(reported: Sequence[int | str], expected: Sequence[int | str]) -> bool:
    """Whether sizes agree as far as both are known; a runtime that reports no sizes contradicts nothing."""
    return not reported or (
        len(reported) == len(expected)
        and all(
            one == other or isinstance(one, str) or isinstance(other, str)
            for one, other in zip(reported, expected, strict=True)
        )
    )
