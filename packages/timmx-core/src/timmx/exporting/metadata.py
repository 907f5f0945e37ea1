"""Builds the metadata of an export (schema 1, docs/metadata.md)."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import importlib_metadata

from timmx.base import parse_json
from timmx.contract import InputMetadata, InvalidMetadata, Metadata, ModelMetadata
from timmx.errors import ConfigurationError
from timmx.model import value_range
from timmx.registry import distribution_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from timmx.contract import ExportBackend, ExportRequest, OutputMetadata, Precision, Quantization
    from timmx.model import LoadedModel


@dataclass(frozen=True, kw_only=True)
class IoTypes:
    """Layout and element types of an artifact's input and outputs, from the arguments of `job.metadata`.

    Raises:
        ValueError: an unknown layout, or an integer type without a quantization.
    """

    input_dtype: str = "float32"
    input_layout: str = "NCHW"
    input_quantization: Quantization | None = None
    output_dtypes: Mapping[str, str] = field(default_factory=dict)
    output_quantization: Mapping[str, Quantization] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.input_layout not in ("NCHW", "NHWC"):
            raise ValueError(f"input_layout is NCHW or NHWC, not {self.input_layout!r}")
        if not self.pixel_bytes:  # pixel bytes need no quantization
            _check_stored("the input", self.input_dtype, self.input_quantization)
        for name in {*self.output_dtypes, *self.output_quantization}:
            dtype = self.output_dtypes.get(name, "float32")
            _check_stored(f"the output {name}", dtype, self.output_quantization.get(name))

    @property
    def pixel_bytes(self) -> bool:
        """Whether the input takes pixel values from 0 to 255 as bytes."""
        return self.input_dtype == "uint8" and self.input_quantization is None

    def describe(self, outputs: tuple[OutputMetadata, ...]) -> tuple[OutputMetadata, ...]:
        """The outputs with their element types and quantization.

        Raises:
            ValueError: an output name is unknown.
        """
        names = [output.name for output in outputs]
        unknown = sorted({*self.output_dtypes, *self.output_quantization}.difference(names))
        if unknown:
            raise ValueError(f"unknown output {', '.join(unknown)}; the outputs are {', '.join(names)}")
        return tuple(
            replace(
                output,
                dtype=self.output_dtypes.get(output.name, "float32"),
                quantization=self.output_quantization.get(output.name),
            )
            for output in outputs
        )


def build_metadata(
    request: ExportRequest,
    loaded: LoadedModel,
    outputs: tuple[OutputMetadata, ...],
    precision: Precision,
    backend: ExportBackend,
    format_facts: Mapping[str, Any],
    io_types: IoTypes,
) -> Metadata:
    """The metadata of an artifact; the same for the same model, options and versions.

    Args:
        request: the shared options.
        loaded: the loaded model.
        outputs: name, kind and shape of each output, in order.
        precision: the artifact's precision.
        backend: the backend that writes the artifact; the versions include its distribution and its toolchain.
        format_facts: facts of this format only, such as an opset; JSON values.
        io_types: layout and element types of input and outputs.

    Raises:
        ValueError: `io_types` names an unknown output.
    """
    config = loaded.data_config
    assert loaded.num_classes is not None, "the session has set it"
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return Metadata(
        model=ModelMetadata(
            name=loaded.name,
            architecture=loaded.architecture,
            source=loaded.source,
            trained=loaded.trained,
            seed=loaded.seed,
            awakened=loaded.awakened,
            weights_sha256=loaded.weights_sha256,
            num_classes=loaded.num_classes,
            license=loaded.license,
            out_indices=None if request.out_indices is None else tuple(request.out_indices),
        ),
        input=InputMetadata(
            name="input",
            layout=io_types.input_layout,
            dtype=io_types.input_dtype,
            quantization=io_types.input_quantization,
            value_range=(0, 255)
            if io_types.pixel_bytes
            else value_range(config.mean, config.std, request.normalize),
            normalized_in_graph=request.normalize,
            size=config.input_size,
            mean=config.mean,
            std=config.std,
            interpolation=config.interpolation,
            crop_pct=config.crop_pct,
            crop_mode=config.crop_mode,
            exif=config.exif,
            color_order={1: "L", 3: "RGB"}.get(config.input_size[0]),
        ),
        outputs=io_types.describe(outputs),
        labels=loaded.labels or None,
        batch_size=None if request.dynamic_batch else request.batch_size or 1,
        precision=precision,
        format=json_values(format_facts),
        versions=installed_versions(
            "timmx-core", distribution_of(backend), "timm", "torch", *backend.toolchain
        ),
        created=None
        if epoch is None
        else datetime.datetime.fromtimestamp(int(epoch), datetime.UTC).isoformat(),
    )


def check_metadata(metadata: Metadata) -> None:
    """Check that every command can read the metadata of an export, with the reader that they use.

    Raises:
        ConfigurationError: a value is not allowed.
    """
    try:
        Metadata.from_json(parse_json(metadata.dumps()))
    except (InvalidMetadata, ValueError) as exc:
        raise ConfigurationError(
            f"the metadata of this export is not valid: {exc}",
            hint="correct this value of the model or its options",
        ) from exc


def json_values(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A backend's facts as JSON values: tuples as lists, enumerations as their values."""
    values: dict[str, Any] = json.loads(json.dumps(facts))
    return values


def installed_versions(*distributions: str | None) -> dict[str, str]:
    """The versions of the installed ones of these distributions, in this order."""
    versions = {}
    for name in distributions:
        if name:
            with contextlib.suppress(importlib_metadata.PackageNotFoundError):
                versions[name] = importlib_metadata.version(name)
    return versions


def _check_stored(what: str, dtype: str, quantization: Quantization | None) -> None:
    if dtype.startswith(("int", "uint")) != (quantization is not None):
        raise ValueError(
            f"{what} is {dtype} {'without' if quantization is None else 'with'} a quantization; integers must have "
            "one, and other types must not"
        )
