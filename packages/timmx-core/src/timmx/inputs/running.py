"""Runs an artifact on float inputs in batches, and compares its reported inputs and outputs with the expected ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from timmx.errors import ArtifactError, PluginError, TimmxError, one_line
from timmx.inputs.conversion import feed, fetch
from timmx.registry import watching_exits

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
    """Run an artifact on any number of inputs.

    Args:
        runner: the artifact.
        inputs: (N, C, H, W) float32; see `feed`.
        outputs: names of outputs.
        batch_size: images per run; None runs all at once. The last batch is padded with its last input, and the
            outputs of the padding are dropped.
        what: the artifact's name in messages.

    Returns:
        By output name, (N, ...); integers are converted as in `fetch`.

    Raises:
        ArtifactError: the runtime fails, or an output is missing.
        TimmxError: raised by the runner.
    """
    (entry,) = runner.inputs
    specs = {spec.name: spec for spec in runner.outputs}
    size = batch_size or len(inputs)
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        padding = size - len(batch)
        if padding:
            batch = np.concatenate([batch, np.repeat(batch[-1:], padding, axis=0)])
        feeds = {entry.name: feed(entry, batch)}
        try:
            with watching_exits():
                results = runner.run(feeds)
        except (TimmxError, PluginError):
            raise
        except Exception as exc:  # a runtime may raise anything
            raise ArtifactError(f"{what} fails at batch size {size}: {one_line(exc)}") from exc
        missing = [name for name in outputs if name not in results]
        if missing:
            raise ArtifactError(f"{what} has no output {missing[0]!r}; it has {', '.join(results)}")
        real = {name: fetch(specs[name], results[name]) for name in outputs}
        parts.append({name: array[:-padding] for name, array in real.items()} if padding else real)
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in outputs}


def check_interface(path: Path, runner: Runner, metadata: Metadata) -> None:
    """Check that the inputs and outputs of a file match its metadata.

    Raises:
        ArtifactError: they differ in names or sizes.
    """
    outputs = {output.name: output.shape for output in metadata.outputs}
    mismatch = interface_mismatch(runner, metadata.input.size, outputs)
    if mismatch:
        raise ArtifactError(
            f"{path} is damaged: its inputs and outputs do not match its metadata: {mismatch}",
            hint="export it again",
        )


def interface_mismatch(
    runner: Runner, input_size: tuple[int, ...], outputs: Mapping[str, Sequence[int | str]]
) -> str:
    """How the inputs and outputs of a runner differ from the expected ones; empty if they agree.

    Only sizes that both sides state are compared. The batch size is not compared.

    Args:
        runner: the artifact.
        input_size: (C, H, W) of the input `input`.
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
    """Whether the sizes that both sides state agree; true if the runtime reports no sizes."""
    return not reported or (
        len(reported) == len(expected)
        and all(
            one == other or isinstance(one, str) or isinstance(other, str)
            for one, other in zip(reported, expected, strict=True)
        )
    )
