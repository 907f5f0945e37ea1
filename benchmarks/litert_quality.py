"""Accuracy and speed of each mode of `timmx litert`, compared with plain conversions.

Prints one table per model. The digits model is evaluated on its 500 test images and calibrated on training images;
other models have random weights from `timmx.testing.awaken`, and are evaluated on crops of photographs and calibrated
on crops of others.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import photographs
import timm
import timmx
import torch
from PIL import Image
from processes import ProcessError, measure
from sklearn.datasets import load_digits
from timmx.base.snr import SignalToNoise
from timmx.contract.capabilities import Precision
from timmx.inputs.conversion import feed, fetch
from timmx.inputs.preprocess import ImagePreprocessor
from timmx.model.data_config import resolve_data_config
from timmx.registry.discovery import load
from timmx.testing import awakened_model
from timmx.verification.comparison import FLOORS_DB
from torch import nn

if TYPE_CHECKING:
    from timmx.contract.runner import Runner

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
PLAIN = Path(__file__).with_name("litert_plain.py")
MODES = {
    **{mode: {"mode": mode} for mode in ("fp32", "fp16", "weight-int8", "dynamic-int8", "int8", "int16x8")},
    "int8, `--io uint8 --normalize`": {"mode": "int8", "io": "uint8", "normalize": True},
}
PLAIN_WAYS = {
    "litert-torch": "fp32",
    "litert-torch, quantizer's `static_wi8_ai8`": "quantizer-static",
    "litert-torch, quantizer's `dynamic_wi8_afp32`": "quantizer-dynamic",
    "PT2E, static": "pt2e-static",
    "PT2E, dynamic": "pt2e-dynamic",
}


@dataclass(frozen=True)
class Judged:
    """A model and the pictures that its files are judged by.

    Attributes:
        source: what `timmx.export` is given.
        module: the same in PyTorch.
        calibration: a folder of pictures.
        held_out: other pictures.
        labels: the right class of each, where it is known.
    """

    source: str | nn.Module
    module: nn.Module
    calibration: Path
    held_out: list[Path]
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class File:
    """One row: an artifact, or why there is none."""

    name: str
    path: Path | None
    normalize: bool = False
    failure: str = ""


def report(models: list[str], folder: Path, rounds: int, threads: int) -> None:
    """Print a table for each model; `digits` stands for the example."""
    torch.set_num_threads(threads)
    calibration, held_out = photographs.write(folder)
    for name in models:
        if name == "digits":
            judged = _digits(folder)
        else:
            module = settled_model(name, calibration)
            judged = Judged(module, module, calibration, sorted(held_out.glob("*.png")))
        work = folder / name
        work.mkdir()
        _print_table(name, judged, [*_ours(judged, work), *_plain(judged, work)], rounds, threads)


def settled_model(name: str, calibration: Path) -> nn.Module:
    """Awakened random weights, with batch norms that take their statistics from the calibration pictures.

    With those of noise, efficientnet_b0 magnifies roundings on photographs: float32 resolves it to 50 dB; with these to
    107 dB.
    """
    module = copy.deepcopy(awakened_model(name))
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all that is seen
        norm.train()
    with torch.inference_mode():
        module(torch.from_numpy(read(module, sorted(calibration.glob("*.png")))))
    return module.eval()


def read(module: nn.Module, paths: list[Path], normalize: bool = False) -> np.ndarray:
    """(N, C, H, W) as a file takes it that does or does not normalize."""
    config, _ = resolve_data_config(module.pretrained_cfg, module.pretrained_cfg["input_size"])
    preprocessor = ImagePreprocessor.for_model(config, normalize)
    return np.stack([preprocessor.read(path) for path in paths])


def _digits(folder: Path) -> Judged:
    calibration = folder / "digits_seen"
    write_seen_digits(calibration, 128)
    held_out = sorted(DIGITS.glob("samples/*/*.png"))
    source = f"local-dir:{DIGITS}"
    labels = np.array([int(path.parent.name) for path in held_out])
    return Judged(source, timm.create_model(source, pretrained=True).eval(), calibration, held_out, labels)


def write_seen_digits(folder: Path, count: int) -> None:
    """Write so many of the digits that are not in `samples/`."""
    folder.mkdir()
    tested = {int(path.stem) for path in DIGITS.glob("samples/*/*.png")}
    images = load_digits().images
    seen = [row for row in range(len(images)) if row not in tested]
    for row in seen[:: len(seen) // count][:count]:
        ink = np.rint(images[row] * 255 / 16).astype(np.uint8)
        Image.fromarray(ink).save(folder / f"{row:04}.png")


def _ours(judged: Judged, work: Path) -> list[File]:
    files = []
    for number, (name, options) in enumerate(MODES.items()):
        if options["mode"] in ("int8", "int16x8"):
            options = options | {"calibration_data": judged.calibration}
        path = work / f"timmx_{number}.tflite"
        # Unverified: a file that verification would refuse is measured too, and marked.
        try:
            timmx.export("litert", judged.source, output=path, verify=False, **options)
        except Exception as exc:  # whatever the converter raises: the other rows are measured all the same
            files.append(File(name, None, failure=_one_line(exc)))
        else:
            files.append(File(name, path, normalize="normalize" in options))
    return files


def _plain(judged: Judged, work: Path) -> list[File]:
    saved = work / "module.pt"
    torch.save(judged.module, saved)
    files = []
    for name, way in PLAIN_WAYS.items():
        path = work / f"{way}.tflite"
        try:
            measure([sys.executable, str(PLAIN), str(saved), way, str(path), str(judged.calibration)])
        except ProcessError as exc:
            files.append(File(name, None, failure=exc.reason[:160]))
        else:
            files.append(File(name, path))
    return files


def _print_table(name: str, judged: Judged, files: list[File], rounds: int, threads: int) -> None:
    inputs = {normalize: read(judged.module, judged.held_out, normalize) for normalize in (False, True)}
    with torch.inference_mode():
        expected = judged.module.eval()(torch.from_numpy(inputs[False])).numpy()
    columns = ["file", "size", "ratio", "top-1 agreement", "time per run", "relative to fp32"]
    shown = ""
    if judged.labels is not None:
        columns.insert(4, "accuracy")
        shown = f"; the model's accuracy is {100 * (expected.argmax(1) == judged.labels).mean():.1f} %"
    print(f"\n{name}: {len(judged.held_out)} images{shown}; {threads} threads, {rounds} rounds\n")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    rows, running = {}, {}
    for file in files:
        if file.path is None:
            rows[file.name] = [f"fails: {file.failure}"]
            continue
        try:
            runner = timmx.open(file.path, threads=threads)
            rows[file.name] = _figures(file, runner, inputs[file.normalize], expected, judged.labels)
        except (RuntimeError, timmx.TimmxError) as exc:  # written, and refused by the runtime
            rows[file.name] = [f"fails: {_one_line(exc)}"]
        else:
            running[file.name] = (runner, feed(runner.inputs[0], inputs[file.normalize][:1]))
    times = _latencies(running, rounds)
    for row, figures in rows.items():
        if row in times:
            ratio = statistics.median(own / base for own, base in zip(times[row], times["fp32"], strict=True))
            figures += [f"{1000 * statistics.median(times[row]):.2f} ms", f"{ratio:.2f}"]
        print(f"| {row} | {' | '.join(figures)} |")


def _figures(
    file: File, runner: Runner, inputs: np.ndarray, expected: np.ndarray, labels: np.ndarray | None
) -> list[str]:
    """Size, signal-to-noise ratio and top-1 agreement; and accuracy, where labels are known."""
    found = answers(runner, inputs)
    ratio = SignalToNoise()
    ratio.update(expected, found)
    size = file.path.stat().st_size
    figures = [
        f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB",
        f"{ratio.snr_db:.1f} dB{_refused(file.path, ratio.snr_db)}",
        f"{100 * ratio.top1_agreement:.1f} %",
    ]
    if labels is not None:
        figures.append(f"{100 * (found.argmax(1) == labels).mean():.1f} %")
    return figures


def answers(runner: Runner, inputs: np.ndarray) -> np.ndarray:
    """The one output for all inputs (N, C, H, W), image by image, as float32."""
    (entry,), (output,) = runner.inputs, runner.outputs
    return np.concatenate(
        [
            fetch(output, runner.run({entry.name: feed(entry, inputs[i : i + 1])})[output.name])
            for i in range(len(inputs))
        ]
    )


def _refused(path: Path, snr_db: float) -> str:
    """A mark where verification would not publish the file; other converters' files have no floor."""
    precision = load("litert").read_metadata(path).get("precision")
    return ", refused" if precision and not snr_db >= FLOORS_DB[Precision(precision)] else ""


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:160]


def _latencies(running: dict[str, tuple[Runner, np.ndarray]], rounds: int) -> dict[str, list[float]]:
    """Seconds a run, in rounds over all files, so that what else the machine does hits all alike.

    Of each round the best of three runs counts: a few milliseconds are often broken into by another process. One more
    goes before them, since another file has filled the caches.
    """
    times: dict[str, list[float]] = {name: [] for name in running}
    for turn in range(rounds + 1):
        for name, (runner, array) in running.items():
            feeds = {runner.inputs[0].name: array}
            seconds = []
            for _ in range(4):
                start = time.perf_counter()
                runner.run(feeds)
                seconds.append(time.perf_counter() - start)
            if turn:
                times[name].append(min(seconds[1:]))
    return times
