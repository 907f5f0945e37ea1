"""Reads and writes `.mlpackage` and `.mlmodel` files and their metadata. Imports neither torch nor coremltools."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from timmx.plugin import (
    ArtifactError,
    UnsupportedError,
    parse_json,
    parse_json_object,
    path_problem,
    read_file,
    shown,
)

from timmx_coreml.errors import damaged
from timmx_coreml.schema import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

METADATA_KEY = "timmx"
"""The key in the model description's `userDefined` metadata."""

LARGEST_MODEL = 2**31 - 1
"""Of a protobuf message, in bytes."""
_LARGEST_MANIFEST = 10**6

_ITEMS = {
    "com.apple.CoreML/model.mlmodel": ("model.mlmodel", "CoreML Model Specification"),
    "com.apple.CoreML/weights": ("weights", "CoreML Model Weights"),
}
"""The items in a package's `Data` folder: name and description, as coremltools writes them."""

_NAMESPACE = uuid.UUID("5f0c6f3e-6d62-5ad4-9f0a-0d6f1f4c2b11")
"""Namespace of the identifiers in `Manifest.json`. coremltools' are random; these are the same in every export."""

_KINDS = {
    "mlProgram": "mlprogram",
    "neuralNetwork": "neuralnetwork",
    "neuralNetworkClassifier": "neuralnetwork",
}


@dataclass(frozen=True)
class CoreMLFile:
    """A parsed Core ML model.

    Attributes:
        model: the `CoreML.Specification.Model` message.
        kind: `mlprogram` or `neuralnetwork`.
        folder: the folder that contains an mlprogram's `weights` folder; None for an `.mlmodel`.
    """

    path: Path
    model: Any
    kind: str
    folder: Path | None


def read(path: Path) -> CoreMLFile:
    """Parse an artifact without reading an mlprogram's weights.

    Raises:
        ArtifactError: it is not a Core ML model, is of a kind that timmx does not write, or is damaged.
    """
    if not path.exists():
        raise ArtifactError(f"{path} does not exist", hint="check the path")
    specification = _root_model(path) if path.is_dir() else path
    model = schema("Model_pb2").Model()
    try:
        model.ParseFromString(read_file(specification, LARGEST_MODEL))
    except (DecodeError, OSError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise damaged(f"{path} is not a Core ML model, or is damaged: {reason}") from exc
    kind = model.WhichOneof("Type")
    description = model.description
    if kind is None or not model.specificationVersion or not description.input:
        raise damaged(f"{path} is not a Core ML model, or is damaged: it does not describe a model")
    if kind not in _KINDS:
        raise ArtifactError(
            f"{path} is a Core ML model of the type {kind}; timmx opens ML programs and neural networks",
            hint="open it with coremltools",
        )
    if not description.output:
        raise damaged(f"{path} is damaged: it describes no output")
    return CoreMLFile(path, model, _KINDS[kind], specification.parent if path.is_dir() else None)


def read_metadata(path: Path) -> dict[str, Any]:
    """Read timmx's metadata; {} if another tool wrote the file.

    Raises:
        ArtifactError: the file is not a Core ML model.
    """
    return metadata_of(read(path))


def metadata_of(file: CoreMLFile) -> dict[str, Any]:
    """Like `read_metadata`, for a parsed file."""
    text = file.model.description.metadata.userDefined.get(METADATA_KEY)
    return parse_json_object(file.path, text) if text else {}


def write(path: Path, model: Any, weights: Path | None) -> None:
    """Write a model; the same model gives the same bytes.

    Args:
        path: ends in `.mlpackage` (a folder) or `.mlmodel` (a file).
        model: the `CoreML.Specification.Model` message.
        weights: an mlprogram's weight file, which is copied; None if there is none.
    """
    content = model.SerializeToString(deterministic=True)
    if path.suffix == ".mlmodel":
        path.write_bytes(content)
        return
    data = path / "Data" / "com.apple.CoreML"
    (data / "weights").mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(content)
    if weights is not None:
        shutil.copyfile(weights, data / "weights" / "weight.bin")
    (path / "Manifest.json").write_text(json.dumps(_manifest(), indent=4) + "\n", encoding="utf-8")


def _manifest() -> dict[str, Any]:
    identifiers = {item: str(uuid.uuid5(_NAMESPACE, item)) for item in _ITEMS}
    root, _ = _ITEMS
    return {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            identifiers[item]: {
                "author": "com.apple.CoreML",
                "description": description,
                "name": name,
                "path": item,
            }
            for item, (name, description) in _ITEMS.items()
        },
        "rootModelIdentifier": identifiers[root],
    }


def _refuse_links_outside(package: Path) -> None:
    """Refuse links to files outside the package, which would be read as weights."""
    inside = Path(os.path.realpath(package))
    for folder, folders, files in os.walk(package):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                raise damaged(
                    f"{package} is not opened: {path.relative_to(package)} is a link to a file outside the package"
                )


def _root_model(package: Path) -> Path:
    """Return the path of a package's specification; check that all items of its manifest exist."""
    _refuse_links_outside(package)
    try:
        manifest = parse_json(read_file(package / "Manifest.json", _LARGEST_MANIFEST))
        entries = {key: str(entry["path"]) for key, entry in manifest["itemInfoEntries"].items()}
        root = entries[manifest["rootModelIdentifier"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
        raise damaged(
            f"{package} is not a Core ML package, or is damaged: its Manifest.json cannot be read "
            f"({type(exc).__name__}: {exc})"
        ) from exc
    for item in entries.values():
        if PurePosixPath(item).is_absolute() or ".." in PurePosixPath(item).parts:
            raise damaged(
                f"{package} is damaged: its Manifest.json lists {item}, which is outside the package"
            )
        if path_problem(package / "Data" / item) or not (package / "Data" / item).exists():
            raise damaged(f"{package} is damaged: {shown(item[:200])} is missing")
    return package / "Data" / root


def class_labels(file: CoreMLFile) -> tuple[str, ...] | None:
    """Return a classifier's class names in class order; None if the model is not a classifier.

    Raises:
        ArtifactError: the classifier has no class names, or two are equal.
    """
    if not file.model.description.predictedFeatureName:
        return None
    if file.kind == "neuralnetwork":
        labels = tuple(file.model.neuralNetworkClassifier.stringClassLabels.vector)
    else:
        try:
            labels = tuple(
                value.immediateValue.tensor.strings.values[0]
                for operation in main_block(file.model).operations
                if operation.type == "classify"
                for value in operation.inputs["classes"].arguments[0].value.immediateValue.list.values
            )
        except IndexError as exc:
            raise damaged(f"{file.path} is damaged: a class has no name") from exc
    if len(set(labels)) < len(labels):
        raise damaged(f"{file.path} is damaged: two of its classes have the same name")
    if not labels:
        raise ArtifactError(
            f"{file.path} is a classifier without class names",
            hint="export the model again with --classifier and --labels FILE",
        )
    return labels


def refuse_custom_layers(file: CoreMLFile) -> None:
    """Refuse a neural network that runs a class of an app: Core ML would look for it in this process.

    Raises:
        UnsupportedError: with the name of the class.
    """
    if file.kind == "neuralnetwork":
        network = getattr(file.model, file.model.WhichOneof("Type"))
        for message in messages(network, "CoreML.Specification.CustomLayerParams"):
            raise UnsupportedError(
                f"timmx does not run {file.path}: it has a custom layer, the class "
                f"{shown(message.className[:100])!r} of an app"
            )


def messages(message: Any, kind: str) -> Iterator[Any]:
    """Yield every message of one type in a message.

    Args:
        kind: the type's full name.
    """
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in value if field.is_repeated else (value,):
            if field.message_type.full_name == kind:
                yield item
            elif hasattr(item, "ListFields"):
                yield from messages(item, kind)


def main_block(model: Any) -> Any:
    """Return the block of an mlprogram's function `main`.

    Raises:
        ArtifactError: there is no such function.
    """
    if "main" in model.mlProgram.functions:
        function = model.mlProgram.functions["main"]
        if function.opset in function.block_specializations:
            return function.block_specializations[function.opset]
    raise damaged("the ML program has no function 'main'")
