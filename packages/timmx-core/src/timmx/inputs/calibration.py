"""Calibration inputs: a folder of images, a file of tensors, or synthetic images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from timmx.base import counted, reporter, shown
from timmx.contract import DEFAULT_CALIBRATION_SAMPLES, LEAST_CALIBRATION_SAMPLES
from timmx.errors import ConfigurationError
from timmx.inputs.images import check_image, left_out, list_images, other_files, spread
from timmx.model import check_content, read_pickle, value_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from enum import StrEnum
    from pathlib import Path

    import numpy as np
    import torch

    from timmx.contract import CalibrationMethod
    from timmx.model import DataConfig, Fit

_FLAG = "--calibration-data"
_TENSOR_SUFFIXES = (".pt", ".pth")
_SAVE = "save one float tensor (N, C, H, W) with torch.save"
_MADE_SEED, _MADE_AT_ONCE = 20_240_301, 6
"""Not the images of verification: ranges must not be judged by the inputs that they were calibrated on."""


def check_calibration(
    data: Path | None, samples: int | None, random: bool, max_drop: float | None = None
) -> None:
    """Check calibration options, without importing torch; for a backend's `validate`.

    The backend itself checks whether its options need calibration.

    Args:
        data: value of `CalibrationData`, a folder or a file.
        samples: value of `CalibrationSamples`; None if it was not given.
        random: value of `RandomCalibration`.
        max_drop: value of `MaxDrop`.

    Raises:
        ConfigurationError: the options exclude each other, or the data does not exist or is of an unknown kind.
    """
    if data is not None and random:
        raise ConfigurationError(
            f"{_FLAG} and --random-calibration cannot be combined: both select the calibration inputs",
            hint="use only one of them",
        )
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise ConfigurationError(
            f"--max-drop {max_drop:g} is not from 0 to 100 percentage points",
            hint="use, for example, --max-drop 0.5",
        )
    if max_drop is not None and data is None:
        raise ConfigurationError(
            f"--max-drop requires {_FLAG}: a drop is measured on typical inputs",
            hint=f"add {_FLAG} FOLDER, with one subfolder per class for accuracy",
        )
    if samples is not None and data is None and not random:
        raise ConfigurationError(
            f"--calibration-samples requires {_FLAG}",
            hint=f"add {_FLAG} PATH",
        )
    if data is None:
        return
    if not data.exists():
        raise ConfigurationError(
            f"{_FLAG} {data} does not exist", hint="name a folder of images, or a .pt file of tensors"
        )
    if data.is_dir():
        _image_paths(data)
    elif data.suffix.lower() not in _TENSOR_SUFFIXES:
        raise ConfigurationError(
            f"{_FLAG} {data} is neither a folder of images nor a .pt or .pth file",
            hint=f"{_SAVE}, or name a folder of images",
        )
    else:
        check_content(data, f"{_FLAG} {data}", "the tensor")


def calibration_flags(
    data: Path | None,
    samples: int | None,
    random: bool,
    method: CalibrationMethod | None,
    max_drop: float | None = None,
) -> list[str]:
    """Flags of the calibration options that were given, for a backend that refuses those it does not use."""
    flags = {
        "--calibration-data": data is not None,
        "--calibration-samples": samples is not None,
        "--random-calibration": random,
        "--calibration-method": method is not None,
        "--max-drop": max_drop is not None,
    }
    return [flag for flag, is_set in flags.items() if is_set]


class Int8Options(Protocol):
    """The options of a backend whose `--mode int8` is calibrated, and no other mode."""

    @property
    def mode(self) -> StrEnum: ...
    @property
    def calibration_data(self) -> Path | None: ...
    @property
    def calibration_samples(self) -> int | None: ...
    @property
    def random_calibration(self) -> bool: ...
    @property
    def calibration_method(self) -> CalibrationMethod | None: ...
    @property
    def max_drop(self) -> float | None: ...


def check_int8_calibration(options: Int8Options, *, instead: str, other_flags: Sequence[str] = ()) -> None:
    """Check the calibration options of a backend that has them for `--mode int8` only; for its `validate`.

    Args:
        options: with the fields of calibration under their usual names.
        instead: the mode to recommend if there is no data.
        other_flags: flags that were given and need `--mode int8` too.

    Raises:
        ConfigurationError: flags need another mode, calibration data is missing, or see `check_calibration`.
    """
    data, samples, random = options.calibration_data, options.calibration_samples, options.random_calibration
    flags = calibration_flags(data, samples, random, options.calibration_method, options.max_drop)
    flags += other_flags
    if options.mode != "int8":
        if flags:
            raise ConfigurationError(
                f"{flags[0]} requires --mode int8, but --mode is {options.mode}",
                hint=f"use --mode int8, or leave {flags[0]} out",
            )
        return
    check_calibration(data, samples, random, options.max_drop)
    if data is None and not random:
        raise ConfigurationError(
            "--mode int8 requires typical images, from which the ranges of activations are computed",
            hint="use --calibration-data FOLDER with images (or a tensor file), --random-calibration (lowers "
            f"accuracy), or --mode {instead}, which requires none",
        )


def choose_calibration(
    data: Path | None, samples: int | None, config: DataConfig, in_graph: bool
) -> CalibrationInputs:
    """The calibration inputs, checked as far as possible without decoding every image.

    Args:
        data: a folder of images or a file of tensors; None for synthetic images.
        samples: maximum number; None for `DEFAULT_CALIBRATION_SAMPLES`.
        config: the model's data config.
        in_graph: the artifact normalizes, so inputs are pixels in [0, 1].

    Raises:
        ConfigurationError: the data does not fit this model.
    """
    most = samples or DEFAULT_CALIBRATION_SAMPLES
    if data is None:
        return SyntheticCalibration(most, config, in_graph)
    inputs: CalibrationInputs
    if data.is_dir():
        inputs = ImageCalibration(data, most, config, in_graph)
    else:
        check_calibration(data, samples, random=False)
        inputs = TensorCalibration(data, most, config, in_graph)
    if len(inputs) < most:
        inputs.warn(f"Calibration has {inputs.origin}, fewer than {most}: all of them are used.")
    return inputs


_FEW = 16

_ALIKE = 0.05
"""Share of the variance that is between inputs: 0.9 for photographs, 0.6 for the digits, 0 for copies of one image."""

_MOST_DIVERGENCE = 0.12
"""Of `Fit`, in nats. In their model, the digits have 0.00 to 0.02 (2 to 32 images), those of one class 0.03, turned
ones 0.04, inverted ones 0.18, half as bright ones 0.2, noise 0.2 to 0.4, pixels that are not normalized or are
normalized as for ImageNet 0.6, black images 0.8, bytes 5,000. If mixup reduced the variances in training to 0.7 times
those of images, typical images have 0.03."""

_CHECKED = 32
"""Number of inputs that are checked."""


def check_representative(inputs: CalibrationInputs, fit_of: Callable[[list[np.ndarray]], Fit | None]) -> None:
    """Warn about inputs that are few, all alike, or that do not fit the statistics of the model's batch norms.

    Args:
        inputs: given by the user.
        fit_of: runs the model on inputs; see `timmx.model.fit_of`.
    """
    import numpy as np

    if len(inputs) < _FEW:
        inputs.warn(
            f"Calibrated on {inputs.origin}, fewer than {_FEW}: the ranges of activations fit few others. "
            f"{DEFAULT_CALIBRATION_SAMPLES} are recommended."
        )
    chosen = inputs.some(_CHECKED)
    if len(chosen) < 2:
        return
    stacked = np.concatenate(chosen)
    total = float(stacked.var(dtype=np.float64))
    between = float(stacked.var(axis=0, dtype=np.float64).mean()) / total if total > 0 else 0.0
    if between < _ALIKE:
        inputs.warn(
            f"The calibration inputs are nearly the same: {100 * between:.2g} % of the variance is between "
            f"{inputs.origin}; typical data has more than 50 %. The ranges of activations will not fit other inputs."
        )
    fit = fit_of(chosen)
    if fit is not None and not fit.divergence <= _MOST_DIVERGENCE:
        inputs.warn(
            f"Calibration data does not fit the model: with {inputs.origin}, activations before "
            f"{counted(fit.norms, 'batch norm')} are {fit.shift:.2g} standard deviations from training, and their "
            f"variance is {fit.ratio:.2g} times as large (divergence {fit.divergence:.2g}, limit {_MOST_DIVERGENCE}). "
            "Are they normalized as the model needs, and typical images?"
        )
    elif fit is not None and len(fit.top) == 1 and len(chosen) >= _FEW and between >= _ALIKE:
        inputs.warn(
            f"The model predicts class {min(fit.top)} for each of {counted(len(chosen), 'calibration input')} that "
            f"were checked, of {inputs.origin}: the ranges of activations may not fit other classes."
        )


class CalibrationInputs(ABC):
    """Base class of the implementations of `timmx.contract.Calibration`.

    Attributes:
        notes: warnings about the inputs, one line each; already reported.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    @property
    @abstractmethod
    def origin(self) -> str: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[np.ndarray]: ...

    @abstractmethod
    def some(self, most: int) -> list[np.ndarray]:
        """At most `most` of the inputs, evenly spaced, without those that cannot be read."""

    def true_classes(self, labels: Sequence[str]) -> np.ndarray | None:
        """The class of each input, if it is known; of images, by their folder's name or number. Read all inputs first.

        Raises:
            ConfigurationError: some folders are named after a class, and others are not.
        """
        return None

    def batches(self, size: int) -> Iterator[np.ndarray]:
        import numpy as np

        batch: list[np.ndarray] = []
        for array in self:
            batch.append(array)
            if len(batch) == size:
                yield np.concatenate(batch)
                batch = []
        if batch:
            yield np.concatenate([batch[index % len(batch)] for index in range(size)])

    def warn(self, text: str) -> None:
        self.notes.append(text)
        reporter().warn(text)


class ImageCalibration(CalibrationInputs):
    """Images of a folder, each decoded when it is needed."""

    def __init__(self, folder: Path, most: int, config: DataConfig, in_graph: bool) -> None:
        from timmx.inputs.preprocess import ImagePreprocessor  # imports numpy

        super().__init__()
        channels = config.input_size[0]
        if channels not in (1, 3):
            raise ConfigurationError(
                f"{_FLAG} {folder} does not fit: images have 1 or 3 channels, this model takes {channels}",
                hint=f"{_SAVE} and name that file",
            )
        self._folder, self._most = folder, most
        self._preprocessor = ImagePreprocessor.for_model(config, in_graph)
        paths = _image_paths(folder)
        if others := other_files(folder):
            self.warn(others)
        self._paths = spread(paths, most)
        chosen = set(self._paths)
        self._spare = [path for path in paths if path not in chosen]
        unreadable = [path for path in self._paths if not _opens(path)]
        self._leave_out(unreadable)

    @property
    def origin(self) -> str:
        return f"{len(self)} images of {self._folder}"

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[np.ndarray]:
        unreadable = []
        queue = list(self._paths)
        while queue:
            path = queue.pop(0)
            try:
                array = self._preprocessor.read(path)
            except ConfigurationError:
                unreadable.append(path)
                queue += self._replacements(1)
                continue
            yield array[None]
        self._leave_out(unreadable)
        if dark := self._preprocessor.depth.warning():
            self.warn(dark)

    def some(self, most: int) -> list[np.ndarray]:
        arrays = []
        for path in spread(self._paths, most):
            with suppress(ConfigurationError):  # reported by the iteration
                arrays.append(self._preprocessor.read(path)[None])
        return arrays

    def true_classes(self, labels: Sequence[str]) -> np.ndarray | None:
        import numpy as np

        numbers = {label: number for number, label in enumerate(labels)}
        folders = [path.parent.name for path in self._paths]
        if not any(label.isdecimal() for label in labels):
            decimals = (name for name in folders if name.isascii() and name.isdecimal() and len(name) < 10)
            numbers |= {name: int(name) for name in decimals if int(name) < len(labels)}
        unknown = sorted(set(folders) - numbers.keys())
        if not unknown:
            return np.array([numbers[name] for name in folders])
        if len(unknown) < len(set(folders)):
            raise ConfigurationError(
                f"{_FLAG} {self._folder} has folders that are not named after a class of the model: "
                f"{len(unknown)} of {len(set(folders))}, such as {shown(unknown[0])}",
                hint="rename them after a class or its number, or leave them out; the classes are "
                f"{', '.join(map(shown, labels[:3]))} and so on",
            )
        return None

    def _replacements(self, count: int) -> list[Path]:
        """Add up to `count` images that were not chosen, to replace damaged ones."""
        paths: list[Path] = []
        while self._spare and len(paths) < count:
            path = self._spare.pop(0)
            paths += [path] if _opens(path) else []
        self._paths += paths
        return paths

    def _leave_out(self, unreadable: Sequence[Path]) -> None:
        if not unreadable:
            return
        self._paths = [path for path in self._paths if path not in unreadable]
        self.warn(left_out(unreadable))
        self._replacements(self._most - len(self))
        if len(self) < LEAST_CALIBRATION_SAMPLES:
            raise ConfigurationError(
                f"{_FLAG} {self._folder}: {len(self)} images can be read, and calibration needs at least "
                f"{LEAST_CALIBRATION_SAMPLES}",
                hint="replace the damaged images, or name another folder",
            )


def _opens(path: Path) -> bool:
    """Whether `check_image` accepts a file."""
    try:
        check_image(path)
    except ConfigurationError:
        return False
    return True


_LARGEST_SPANS = 1000
"""Largest value, as a multiple of an image's value range; a value of 1e30 makes a runtime crash."""


class TensorCalibration(CalibrationInputs):
    """Rows of a tensor from torch.save, in the form that the artifact takes; the file is mapped, not loaded."""

    def __init__(self, path: Path, most: int, config: DataConfig, in_graph: bool) -> None:
        super().__init__()
        self._path = path
        self._tensor = _read_tensor(path, config.input_size, in_graph)
        self._rows = spread(range(len(self._tensor)), most)
        self._check_values(config, in_graph)

    @property
    def origin(self) -> str:
        return f"{len(self)} inputs of {self._path}"

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from map(self._row, self._rows)

    def some(self, most: int) -> list[np.ndarray]:
        return [self._row(row) for row in spread(self._rows, most)]

    def _row(self, row: int) -> np.ndarray:
        return self._tensor[row : row + 1].float().contiguous().numpy().copy()

    def _check_values(self, config: DataConfig, in_graph: bool) -> None:
        """Check that values are finite and in the range of this export's inputs."""
        import numpy as np

        least, greatest = float("inf"), -float("inf")
        for row, array in zip(self._rows, self, strict=True):
            if not np.isfinite(array).all():
                raise ConfigurationError(
                    f"{_FLAG} {self._path}: input {row} holds numbers that are infinite or not a number (NaN)",
                    hint="remove that input, and save the rest",
                )
            least, greatest = min(least, float(array.min())), max(greatest, float(array.max()))
        if least == greatest:
            raise ConfigurationError(
                f"{_FLAG} {self._path} holds only the value {least:g}, which gives no ranges",
                hint=f"{_SAVE} that holds typical inputs",
            )
        actual = f"{_FLAG} {self._path} holds values from {least:.4g} to {greatest:.4g}"
        low, high = value_range(config.mean, config.std, in_graph)
        expected = f"this export takes {_form(in_graph)} from {low:.4g} to {high:.4g}"
        if max(-least, greatest) > _LARGEST_SPANS * (high - low):
            raise ConfigurationError(
                f"{actual}; {expected}; no image has such values",
                hint="remove those inputs, and save the rest",
            )
        half = (high - low) / 2
        if least < low - half or greatest > high + half:
            if config.input_size[0] in (1, 3) and least >= 0:
                raise ConfigurationError(f"{actual}; {expected}", hint=_convert(in_graph))
            if config.input_size[0] in (1, 3) and in_graph:
                raise ConfigurationError(
                    f"{actual}; {expected}",
                    hint="save the pixels before they are normalized, or leave --normalize out",
                )
            # Inputs that are not images, or have other statistics than the model's own, may be correct.
            self.warn(f"{actual}; {expected}.")
        elif not in_graph and low < 0 <= least and greatest <= 1 < high:
            self.warn(f"{actual}, as pixels before normalization do; {expected}. Are they normalized?")


class SyntheticCalibration(CalibrationInputs):
    """Synthetic images, generated a few at a time."""

    def __init__(self, count: int, config: DataConfig, in_graph: bool) -> None:
        super().__init__()
        self._count, self._config, self._in_graph = count, config, in_graph
        self.warn(
            f"Calibrated on {self.origin}: their value ranges differ from those of real images, which lowers "
            f"accuracy. Use {_FLAG} with typical images."
        )

    @property
    def origin(self) -> str:
        return f"{self._count} synthetic images"

    def __len__(self) -> int:
        return self._count

    def some(self, most: int) -> list[np.ndarray]:
        return list(islice(self, most))

    def __iter__(self) -> Iterator[np.ndarray]:
        from timmx.inputs.samples import SyntheticSamples

        for start in range(0, self._count, _MADE_AT_ONCE):
            images = SyntheticSamples(self._config, self._in_graph, _MADE_AT_ONCE, _MADE_SEED + start)
            for index in range(min(_MADE_AT_ONCE, self._count - start)):
                yield images.take([index])


def _image_paths(folder: Path) -> list[Path]:
    paths = list_images(folder)
    if len(paths) < LEAST_CALIBRATION_SAMPLES:
        raise ConfigurationError(
            f"{_FLAG} {folder} and its subfolders hold {len(paths)} images; at least {LEAST_CALIBRATION_SAMPLES} "
            f"are required, {DEFAULT_CALIBRATION_SAMPLES} are recommended",
            hint="name a folder with more images",
        )
    return paths


def _read_tensor(path: Path, size: tuple[int, int, int], in_graph: bool) -> torch.Tensor:
    """The tensor of a file, mapped into memory where possible; its shape and type are checked, its values are not."""
    import torch

    tensor: Any = read_pickle(path, _SAVE, ConfigurationError)
    where = f"{_FLAG} {path}"
    if not isinstance(tensor, torch.Tensor):
        keys = (
            f" ({', '.join(map(str, list(tensor)[:3]))}, ...)" if isinstance(tensor, dict) and tensor else ""
        )
        stack = "; torch.stack joins several" if isinstance(tensor, (list, tuple)) else ""
        raise ConfigurationError(
            f"{where} holds a {type(tensor).__name__}{keys}, not a tensor", hint=f"{_SAVE}{stack}"
        )
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise ConfigurationError(f"{where} holds a tensor that is sparse or without data", hint=_SAVE)
    channels, height, width = size
    if tensor.ndim != 4 or tuple(tensor.shape[1:]) != size:
        hint = "save inputs of that size"
        if tuple(tensor.shape[-3:]) == (height, width, channels):
            hint = "its channels are last: move them to the front with tensor.movedim(-1, -3)"
        raise ConfigurationError(
            f"{where} holds a tensor of shape {tuple(tensor.shape)}; this model takes (N, {channels}, {height}, "
            f"{width})",
            hint=hint,
        )
    if not tensor.dtype.is_floating_point:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ConfigurationError(
            f"{where} holds {dtype} numbers; this export takes {_form(in_graph)} as float",
            hint=_convert(in_graph),
        )
    if len(tensor) < LEAST_CALIBRATION_SAMPLES:
        raise ConfigurationError(
            f"{where} holds {len(tensor)} inputs; at least {LEAST_CALIBRATION_SAMPLES} are required, "
            f"{DEFAULT_CALIBRATION_SAMPLES} are recommended",
            hint="save more of them",
        )
    return tensor.detach()


def _form(in_graph: bool) -> str:
    return "pixels in [0, 1]" if in_graph else "normalized pixels"


def _convert(in_graph: bool) -> str:
    if in_graph:
        return "for bytes, save tensor.float() / 255"
    return "for bytes, save (tensor.float() / 255 - mean) / std, or give --normalize and save tensor.float() / 255"
