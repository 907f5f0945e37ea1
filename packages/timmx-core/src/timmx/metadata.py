"""The JSON that travels inside an artifact (schema 1, docs/metadata.md): made here, read by everything else."""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING, Any

import importlib_metadata

if TYPE_CHECKING:
    from timmx.contract import Precision
    from timmx.model.load import LoadedModel
    from timmx.options import ExportRequest

SCHEMA = 1


def build_metadata(
    request: ExportRequest,
    loaded: LoadedModel,
    outputs: list[dict[str, Any]],
    precision: Precision,
    distribution: str | None,
    format_facts: dict[str, Any],
    input_dtype: str = "float32",
) -> dict[str, Any]:
    """Everything that a reader of the artifact needs; the same for the same model, options and versions.

    Args:
        outputs: name, kind and shape of each output, in order.
        distribution: the wheel of the backend, where it is known.
        format_facts: what only this format has, such as an opset; JSON values.
        input_dtype: `float32`, or `uint8` for whole pixel values.
    """
    config = loaded.data_config
    low, high = _value_range(config.mean, config.std, request.normalize)
    if input_dtype == "uint8":
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
        },
        "input": {
            "name": "input",
            "layout": "NCHW",
            "dtype": input_dtype,
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
        "outputs": outputs,
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


def _value_range(mean: tuple[float, ...], std: tuple[float, ...], in_graph: bool) -> tuple[float, float]:
    """The least and greatest value that the artifact's input takes for pixels in [0, 1]."""
    if in_graph:
        return 0.0, 1.0
    pairs = list(zip(mean, std, strict=True))
    low, high = min((0 - m) / s for m, s in pairs), max((1 - m) / s for m, s in pairs)
    return round(low, 6), round(high, 6)
