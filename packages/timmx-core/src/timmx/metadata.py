"""The JSON that travels inside an artifact (schema 1, docs/metadata.md): made here, read by everything else."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import importlib_metadata

from timmx.errors import ArtifactError
from timmx.schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from timmx.contract import Precision, Quantization
    from timmx.model.load import LoadedModel
    from timmx.options import ExportRequest


@dataclass(frozen=True)
class Edges:
    """How an artifact's input and outputs are laid out and stored, as a backend states it in `job.metadata`.

    Raises:
        ValueError: an unknown layout, or an element type without what its numbers stand for.
    """

    input_dtype: str = "float32"
    input_layout: str = "NCHW"
    input_quantization: Quantization | None = None
    output_dtypes: Mapping[str, str] = field(default_factory=dict)
    output_quantization: Mapping[str, Quantization] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.input_layout not in ("NCHW", "NHWC"):
            raise ValueError(f"input_layout is NCHW or NHWC, not {self.input_layout!r}")
        if not self.pixel_bytes:  # which need no quantization to be understood
            _check_stored("the input", self.input_dtype, self.input_quantization)
        for name in {*self.output_dtypes, *self.output_quantization}:
            dtype = self.output_dtypes.get(name, "float32")
            _check_stored(f"the output {name}", dtype, self.output_quantization.get(name))

    @property
    def pixel_bytes(self) -> bool:
        """The input takes whole pixel values from 0 to 255."""
        return self.input_dtype == "uint8" and self.input_quantization is None

    def describe(self, outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The outputs with what is not float32 about them.

        Raises:
            ValueError: there is no output of a name that was given.
        """
        names = [output["name"] for output in outputs]
        unknown = sorted({*self.output_dtypes, *self.output_quantization}.difference(names))
        if unknown:
            raise ValueError(f"there is no output {', '.join(unknown)}, only {', '.join(names)}")
        return [
            output
            | (
                {"dtype": dtype}
                if (dtype := self.output_dtypes.get(output["name"], "float32")) != "float32"
                else {}
            )
            | _quantization(self.output_quantization.get(output["name"]))
            for output in outputs
        ]


def build_metadata(
    request: ExportRequest,
    loaded: LoadedModel,
    outputs: list[dict[str, Any]],
    precision: Precision,
    distribution: str | None,
    format_facts: dict[str, Any],
    edges: Edges,
) -> dict[str, Any]:
    """Everything that a reader of the artifact needs; the same for the same model, options and versions.

    Args:
        outputs: name, kind and shape of each output, in order.
        distribution: the wheel of the backend, where it is known.
        format_facts: what only this format has, such as an opset; JSON values.
        edges: how input and outputs are laid out and stored.

    Raises:
        ValueError: `edges` names an output that there is not.
    """
    config = loaded.data_config
    low, high = value_range(config.mean, config.std, request.normalize)
    if edges.pixel_bytes:
        low, high = 0, 255
    batch = {"dynamic": True} if request.dynamic_batch else {"size": request.batch_size or 1}
    metadata: dict[str, Any] = {
        "schema": SCHEMA,
        "model": {
            "name": loaded.name,
            "architecture": loaded.architecture,
            "source": loaded.source,
            "trained": loaded.trained,
            "seed": loaded.seed,
            "weights_sha256": loaded.weights_sha256,
            "num_classes": loaded.num_classes,
            "license": loaded.license,
            **({"out_indices": list(request.out_indices)} if request.out_indices is not None else {}),
        },
        "input": {
            "name": "input",
            "layout": edges.input_layout,
            "dtype": edges.input_dtype,
            **_quantization(edges.input_quantization),
            "value_range": [low, high],
            "normalization": "graph" if request.normalize else "caller",
            "size": list(config.input_size),
            "mean": list(config.mean),
            "std": list(config.std),
            "interpolation": config.interpolation,
            "crop_pct": config.crop_pct,
            "crop_mode": config.crop_mode,
            "color_order": {1: "L", 3: "RGB"}.get(config.input_size[0]),
        },
        "outputs": edges.describe(outputs),
        "labels": list(loaded.labels) if loaded.labels else None,
        "batch": batch,
        "precision": str(precision),
        "format": format_facts,
        "versions": {
            name: importlib_metadata.version(name)
            for name in ("timmx-core", distribution, "timm", "torch")
            if name
        },
    }
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is not None:
        metadata["created"] = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC).isoformat()
    return metadata


def parse(path: Path, content: str | bytes) -> dict[str, Any]:
    """The JSON that `path` holds or has beside it.

    Raises:
        ArtifactError: it is no JSON object.
    """
    try:
        metadata = json.loads(content)
    except ValueError as exc:
        raise ArtifactError(
            f"{path} is damaged: its metadata is not JSON ({exc})", hint="re-export it"
        ) from exc
    if not isinstance(metadata, dict):
        raise ArtifactError(f"{path} is damaged: its metadata is not a JSON object", hint="re-export it")
    return metadata


def author(metadata: Mapping[str, Any]) -> str:
    """Whom a format's own field of that name should name: the owner of the weights on the hub, where there is one."""
    facts = metadata["model"]
    owner = facts["name"].rpartition("/")[0] if facts["source"] == "hf-hub" else ""
    if facts["source"] == "timm":
        owner = "timm" if facts["trained"] else ""
    return owner or f"Unknown; exported with timmx {metadata['versions']['timmx-core']}"


def weights_version(metadata: Mapping[str, Any]) -> str:
    """A model's version for a format's own field: which weights these are."""
    return f"weights sha256:{metadata['model']['weights_sha256'][:16]}"


def _quantization(quantization: Quantization | None) -> dict[str, Any]:
    if quantization is None:
        return {}
    return {"quantization": {"scale": float(quantization.scale), "zero_point": int(quantization.zero_point)}}


def _check_stored(what: str, dtype: str, quantization: Quantization | None) -> None:
    if dtype.startswith(("int", "uint")) != (quantization is not None):
        raise ValueError(
            f"{what} is {dtype} {'without' if quantization is None else 'with'} a quantization: whole numbers have "
            "one, others have none"
        )


def value_range(mean: tuple[float, ...], std: tuple[float, ...], in_graph: bool) -> tuple[float, float]:
    """The least and greatest value that the artifact's input takes for pixels in [0, 1]."""
    if in_graph:
        return 0.0, 1.0
    pairs = list(zip(mean, std, strict=True))
    low, high = min((0 - m) / s for m, s in pairs), max((1 - m) / s for m, s in pairs)
    return round(low, 6), round(high, 6)
