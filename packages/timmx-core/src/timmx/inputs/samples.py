"""Inputs for verification: a folder of images, or synthetic images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from timmx.base import reporter
from timmx.errors import ConfigurationError
from timmx.inputs.images import image_paths, left_out, list_images, other_files, spread
from timmx.inputs.preprocess import ImagePreprocessor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from timmx.model import DataConfig

MOST_IMAGES = 512
"""More would not change the results; of a larger folder, evenly spaced images are used."""
_OF_CALIBRATION = 64
"""As many as the agreement of classes needs; the user did not ask for a longer verification."""
LEAST_INPUTS = 4
SYNTHETIC_INPUTS = 6
_CACHE_BYTES = 256 * 2**20


class Samples(Protocol):
    """Inputs of one model, in the form that its artifact takes. `origin` describes their source in words."""

    origin: str

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """The inputs at `indices`, (len(indices), C, H, W) float32."""


class SyntheticSamples:
    """Synthetic images: smooth random images of different brightness and contrast, the same for the same seed.

    The first has the most contrast: models are traced with it, and searched for large activations. Pixel values are
    multiples of 1/255, since a format may take pixels as bytes.
    """

    def __init__(
        self, config: DataConfig, in_graph: bool, count: int = SYNTHETIC_INPUTS, seed: int = 20_240_229
    ) -> None:
        channels, height, width = config.input_size
        self.origin = f"{count} synthetic images"
        rng = np.random.default_rng(seed)
        coarse = rng.random((count, channels, 9, 9), dtype=np.float32)
        contrast = np.linspace(1.0, 0.3, count, dtype=np.float32).reshape(-1, 1, 1, 1)
        pixels = _enlarge(coarse, height, width) * contrast
        pixels += 0.1 * rng.random(pixels.shape, dtype=np.float32)
        pixels = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.float32) / np.float32(255)
        self._inputs = pixels if in_graph else _normalized(pixels, config)

    def __len__(self) -> int:
        return len(self._inputs)

    def take(self, indices: Sequence[int]) -> np.ndarray:
        return self._inputs[list(indices)]


class ImageSamples:
    """Preprocessed images of a folder; the first 256 MB are cached in memory.

    Attributes:
        unreadable: images that are left out because they cannot be read.
        preprocessor: what reads them.
    """

    def __init__(self, paths: Sequence[Path], folder: Path, config: DataConfig, in_graph: bool) -> None:
        self.preprocessor = ImagePreprocessor.for_model(config, in_graph)
        self._read = self.preprocessor.read
        self._paths: list[Path] = []
        self._cache: list[np.ndarray] = []
        self.unreadable: list[Path] = []
        free_bytes = _CACHE_BYTES
        for path in paths:
            try:
                array = self._read(path)
            except ConfigurationError:
                self.unreadable.append(path)
                continue
            if len(self._cache) == len(self._paths) and array.nbytes <= free_bytes:
                self._cache.append(array)
                free_bytes -= array.nbytes
            self._paths.append(path)
        self.origin = f"{len(self._paths)} images of {folder}"

    def true_classes(self, labels: Sequence[str]) -> np.ndarray | None:
        """The class of each image by its folder's name; None if a folder is not named after a class."""
        numbers = {label: number for number, label in enumerate(labels)}
        folders = [path.parent.name for path in self._paths]
        return np.array([numbers[name] for name in folders]) if numbers.keys() >= set(folders) else None

    def __len__(self) -> int:
        return len(self._paths)

    def take(self, indices: Sequence[int]) -> np.ndarray:
        cache, paths = self._cache, self._paths
        return np.stack(
            [cache[index] if index < len(cache) else self._read(paths[index]) for index in indices]
        )


def choose_samples(
    verify_data: Path | None,
    own_samples: Path | None,
    config: DataConfig,
    in_graph: bool,
    calibration_data: Path | None = None,
) -> Samples:
    """The images of `verify_data`, otherwise the model's own samples, images of `calibration_data`, or synthetic ones.

    Args:
        verify_data: the folder of `--verify-data`.
        own_samples: the `samples/` folder of a `local-dir:` model, if it has one.
        config: the model's data config.
        in_graph: the artifact normalizes, so inputs are pixels in [0, 1].
        calibration_data: what activations are calibrated on; others are outside of their ranges.

    Raises:
        ConfigurationError: `verify_data` does not fit this model, or has too few readable images.
    """
    folder, most = verify_data or own_samples, MOST_IMAGES
    if folder is None and calibration_data is not None and calibration_data.is_dir():
        folder, most = calibration_data, _OF_CALIBRATION
    if folder is None:
        return SyntheticSamples(config, in_graph)
    if config.input_size[0] not in (1, 3):
        reason = f"images have 1 or 3 channels, this model takes {config.input_size[0]}"
        if verify_data:
            raise ConfigurationError(
                f"--verify-data does not fit: {reason}", hint="leave it out to use synthetic inputs"
            )
        reporter().warn(f"The samples in {folder} are not used: {reason}.")
        return SyntheticSamples(config, in_graph)
    paths = image_paths(folder, LEAST_INPUTS) if verify_data else list_images(folder)
    if len(paths) < LEAST_INPUTS:
        reporter().warn(f"{folder} holds fewer than {LEAST_INPUTS} images: synthetic images are used.")
        return SyntheticSamples(config, in_graph)
    if others := other_files(folder):
        reporter().warn(others)
    samples = ImageSamples(spread(paths, most), folder, config, in_graph)
    if samples.unreadable:
        reporter().warn(left_out(samples.unreadable))
    if dark := samples.preprocessor.depth.warning():
        reporter().warn(dark)
    if len(samples) < LEAST_INPUTS:
        raise ConfigurationError(
            f"{folder} holds {len(samples)} readable images; verification requires at least {LEAST_INPUTS}",
            hint="replace the damaged images, or name another folder with --verify-data",
        )
    return samples


def _enlarge(coarse: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear enlargement of (N, C, h, w) to (N, C, height, width)."""
    rows = _weights(coarse.shape[2], height)
    columns = _weights(coarse.shape[3], width)
    return np.einsum("Hh,nchw,Ww->ncHW", rows, coarse, columns, optimize=True).astype(np.float32)


def _weights(size: int, target: int) -> np.ndarray:
    """(target, size) matrix of linear interpolation with aligned corners."""
    positions = np.linspace(0, size - 1, target)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(size)[None, :]))


def _normalized(pixels: np.ndarray, config: DataConfig) -> np.ndarray:
    mean = np.asarray(config.mean, np.float32).reshape(1, -1, 1, 1)
    std = np.asarray(config.std, np.float32).reshape(1, -1, 1, 1)
    return (pixels - mean) / std
