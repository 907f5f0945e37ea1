"""`timmx eval`: the accuracy of an artifact on labeled images, compared with a model or another artifact."""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timmx.artifact import digest
from timmx.base import counted, reporter
from timmx.errors import ConfigurationError
from timmx.inputs import PIXELS_HINT, left_out
from timmx.tools.eval.dataset import read_dataset
from timmx.tools.eval.evaluation import Evaluation, Side
from timmx.tools.eval.journal import Journal, Reading
from timmx.tools.eval.multi_label import MultiLabelEvaluation
from timmx.tools.subject import (
    TorchRunner,
    answers,
    describe,
    file_named,
    open_for_stream,
    open_model,
    refuse_model_options,
    request_for,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from timmx.contract import RuntimeDevice
    from timmx.inputs import ImageSettings
    from timmx.tools.eval.dataset import Dataset
    from timmx.tools.subject import Answer, Described, Subject


def evaluate(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    class_map: Path | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    limit: int | None = None,
    resume: Path | None = None,
    against: Any = None,
    model_options: Mapping[str, Any] | None = None,
    settings: ImageSettings | None = None,
    trust: bool = False,
    runtime_device: RuntimeDevice | None = None,
) -> Evaluation | MultiLabelEvaluation:
    """Measure the accuracy of an artifact on labeled images.

    If its classes do not exclude each other, the result is a `MultiLabelEvaluation`, with average precisions.

    Args:
        path: the artifact, of any installed backend.
        data: a folder with one folder per class, or a CSV with the columns path and label; see `read_dataset`.
        class_map: a file with the data's class names in class order, one per line.
        batch_size: images per run, if the artifact has a dynamic batch size.
        workers: threads that decode images.
            limit: maximum number of images, taken evenly from the classes.
        resume: a journal in which each answer is recorded, and from which an interrupted run continues.
        against: the PyTorch model to compare with, as for an export, or another artifact.
            model_options: which weights and shape the model has; see `timmx.contract.MODEL_OPTIONS`.
        settings: how image files are read.
        trust: the artifacts may run code that they contain.
        runtime_device: where the runtime of `path` computes; None for its default.

    Raises:
        ConfigurationError: the data does not match the artifact, or none of the images can be read.
        TimmxError: the artifact or the model cannot be opened or run.
    """
    path, data, say = Path(path), Path(data).expanduser(), reporter()
    if settings is not None:
        settings.check()
    say.step(f"Opening {path.name}")
    file = describe(path, trust, settings, runtime_device)
    dataset = dataset_for(file, data, class_map).limited(limit)
    with ExitStack() as stack:
        subject = stack.enter_context(open_for_stream(file, batch_size))
        other = None
        if against is not None or model_options:
            say.step(f"Opening {against}")
            other = stack.enter_context(_open_other(subject, against, model_options))
        journal = None
        if resume is not None:
            journal = stack.enter_context(Journal(resume, _identity(subject), dataset))
            if other is not None:
                journal.second(_identity(other))
        side = read_all(subject, dataset, workers=workers, journal=journal)
        second = (
            read_all(other, dataset, workers=workers, journal=journal, of="second")
            if other is not None
            else None
        )
        kind = Evaluation if dataset.exclusive else MultiLabelEvaluation
        return kind.of(path, subject.metadata, dataset, side, second)


def dataset_for(file: Described, data: Path, class_map: Path | None = None) -> Dataset:
    """The images of `data`, labeled with the classes of an artifact.

    Raises:
        ArtifactError: the artifact ranks no classes, or takes no images.
        ConfigurationError: the data does not match the artifact; see `read_dataset`.
    """
    file.require_classes()
    file.preprocessor.check()
    return read_dataset(data, file.name, file.labels, file.num_classes, class_map, exclusive=file.exclusive)


def read_all(
    subject: Subject,
    dataset: Dataset,
    *,
    workers: int | None = None,
    journal: Journal | None = None,
    of: str = "subject",
) -> Side:
    """Classify all images.

    Args:
        of: the name under which the journal records the answers.

    Raises:
        ConfigurationError: none of the images can be read.
        TimmxError: the subject fails.
    """
    say = reporter()
    say.step(f"Running {subject.name}")
    recorded = journal.readings(of, subject.batch_size) if journal else []
    readings, total = list(recorded), len(dataset.images)
    again = [number for number, reading in enumerate(recorded) if reading.unreadable]
    if recorded:
        say.detail(f"{len(recorded) - len(again):,} of {total:,} predictions are from the journal.")
    remaining = range(
        len(recorded), total
    )  # a separate stream: batches have the same images as in a single run
    order = (*again, *remaining)
    stream = chain.from_iterable(
        answers(subject, [dataset.images[number].path for number in numbers], workers=workers)
        for numbers in (again, remaining)
    )
    start, hint = time.perf_counter(), ""
    try:
        for asked, (number, answer) in enumerate(zip(order, stream, strict=True), 1):
            image = dataset.images[number]
            reading = _reading(answer, image.truth if dataset.exclusive else None)
            hint = answer.hint if answer.hint == PIXELS_HINT else hint
            if journal:
                journal.add(of, number, reading)
            readings[number : number + 1] = [reading]
            done = total - len(order) + asked
            say.advance(f"{done:,} of {counted(total, 'image')}", done / total)
    except (KeyboardInterrupt, SystemExit):
        if journal:
            say.warn(
                f"{len(readings):,} of {total:,} predictions are recorded: run the same command to continue."
            )
        raise
    seconds = time.perf_counter() - start
    unreadable = [image.path for image, item in zip(dataset.images, readings, strict=True) if item.unreadable]
    if len(unreadable) == total:
        what = readings[0].error
        raise ConfigurationError(
            what if total == 1 else f"none of the {total} images can be read; the first: {what}",
            hint=hint or "use images that Pillow can open",
        )
    if unreadable and of == "subject":
        say.warn(f"{left_out(unreadable)} For too many pixels: {hint}." if hint else left_out(unreadable))
    failed = sum(bool(item.error) and not item.unreadable for item in readings)
    if failed:
        say.warn(
            f"{subject.name} returns NaN or infinity for {counted(failed, 'image')} of {total:,}: counted as wrong."
        )
    return Side(subject.name, tuple(readings), seconds, len(order))


def _reading(answer: Answer, truth: int | None) -> Reading:
    """The answer; `truth` is None if classes do not exclude each other."""
    scores = answer.probabilities
    if scores is None:
        return Reading(error=answer.error, unreadable=True)
    if not np.isfinite(scores).all():
        return Reading(error="the output is NaN or infinity")
    if truth is None:
        return Reading(scores=tuple(scores.tolist()))
    read = int(scores.argmax())
    rank = int((scores > scores[truth]).sum() + (scores[:truth] == scores[truth]).sum())
    return Reading(read=read, probability=float(scores[read]), rank=rank)


def _open_other(subject: Subject, against: Any, options: Mapping[str, Any] | None) -> Subject:
    """Open the file or the PyTorch model to compare with."""
    file = file_named(against)
    if file is not None:
        refuse_model_options(options, f"and --against {against} is a file")
        other = describe(file, subject.trust, subject.preprocessor.settings)
        _check_classes(subject, other)
        return open_for_stream(other)
    request = request_for(subject.metadata, against, options)
    return open_model(request, subject.metadata, subject.batch_size, subject.preprocessor.settings)


def _check_classes(subject: Described, other: Described) -> None:
    other.require_classes()
    mine, theirs = subject.num_classes, other.num_classes
    if mine != theirs or (subject.labels and other.labels and subject.labels != other.labels):
        raise ConfigurationError(
            f"{subject.name} has {_classes(mine, subject.labels)}, and {other.name} {_classes(theirs, other.labels)}",
            hint="compare files with the same classes, in the same order",
        )
    if subject.exclusive is not other.exclusive:
        one, two = (subject, other) if subject.exclusive else (other, subject)
        raise ConfigurationError(
            f"the classes of {one.name} exclude each other, and those of {two.name} do not",
            hint="export both with --multi-label, or both without",
        )


def _classes(count: int, labels: Sequence[str] | None) -> str:
    return counted(count, "class", "classes") + (f" ({', '.join(islice(labels, 3))}, ...)" if labels else "")


def _identity(reader: Subject) -> dict[str, Any]:
    """What identifies a subject in the journal."""
    if reader.path is not None and reader.backend is not None:
        sha256 = digest(reader.backend.files(reader.path))
    else:
        assert isinstance(reader.runner, TorchRunner)
        sha256 = reader.runner.weights_sha256
    recipe = reader.metadata.input.to_json() | ({"exif": True} if reader.preprocessor.turns else {})
    if reader.preprocessor.settings.bits is not None:
        recipe["bits"] = reader.preprocessor.settings.bits
    return {"name": reader.name, "sha256": sha256, "recipe": recipe}
