"""Code that loads and runs a Core ML model: Python with coremltools on a Mac, and Swift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import Snippet, quote_string, shown

from timmx_coreml.features import read_input
from timmx_coreml.package import read

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata


def snippet(path: Path, metadata: Metadata, language: str) -> Snippet:
    """Return the snippet for `python` or `swift`."""
    feature = read_input(read(path).model.description.input[0])
    least = min((shape[0] for shape in feature.shapes), default=1)
    if feature.ranges and not feature.colors:
        least = feature.ranges[0][0]
    make = _python if language == "python" else _swift
    return make(path, metadata, bool(feature.colors), least)


def _python(path: Path, metadata: Metadata, picture: bool, least: int) -> Snippet:
    classes = metadata.format.get("probabilities_output")
    file, entry, output = (
        quote_string(str(text), "python")
        for text in (path.as_posix(), metadata.input.name, classes or metadata.outputs[0].name)
    )
    run = f"{'probabilities' if classes else 'output'} = model.predict({{{entry}: x}})[{output}]"
    return Snippet(
        requires=("coremltools",),
        imports=("import coremltools as ct", "import json"),
        load=(f"model = ct.models.MLModel({file})  # predicts on macOS only",),
        run=(run, "output = np.array([[probabilities[label] for label in labels]], np.float32)")
        if classes
        else (run,),
        labels='json.loads(model.user_defined_metadata["timmx"])["labels"]',
        takes_image=picture,
        least_batch=least,
    )


def _swift(path: Path, metadata: Metadata, picture: bool, least: int) -> Snippet:
    classes = metadata.format.get("probabilities_output")
    compiled, entry, output = (
        quote_string(str(text), "swift")
        for text in (path.stem, metadata.input.name, classes or metadata.outputs[0].name)
    )
    channels, height, width = metadata.input.size
    batch = metadata.batch_size or least
    pixel_format = "kCVPixelFormatType_OneComponent8" if channels == 1 else "kCVPixelFormatType_32BGRA"
    feed: tuple[str, ...]
    if picture:
        feed = (
            f"let value = try MLFeatureValue(cgImage: x, pixelsWide: {width}, pixelsHigh: {height},",
            f"                               pixelFormatType: {pixel_format}, options: nil)",
        )
    else:
        feed = (
            f"let array = try MLMultiArray(shape: [{batch}, {channels}, {height}, {width}], dataType: .float32)",
            "array.withUnsafeMutableBufferPointer(ofType: Float.self) { numbers, _ in",
            f"    for n in 0..<{batch} {{ for i in 0..<x.count {{ numbers[n * x.count + i] = x[i] }} }}",
            "}",
            "let value = MLFeatureValue(multiArray: array)",
        )
    feed = (
        *feed,
        f"let inputs = try MLDictionaryFeatureProvider(dictionary: [{entry}: value])",
        "let outputs = try model.prediction(from: inputs)",
    )
    if classes:
        fetch: tuple[str, ...] = (
            f"let probabilities = outputs.featureValue(for: {output})!.dictionaryValue",
            "let output = labels.map { probabilities[$0]!.floatValue }",
        )
    else:
        fetch = (
            f"let values = outputs.featureValue(for: {output})!.multiArrayValue!",
            f"let output = (0..<values.count{f' / {batch}' if batch > 1 else ''}).map {{ values[$0].floatValue }}",
        )
    return Snippet(
        imports=("import CoreML",),
        load=(
            f'let url = Bundle.main.url(forResource: {compiled}, withExtension: "mlmodelc")!'
            f"  // Xcode compiles {shown(path.name)}",
            "let model = try MLModel(contentsOf: url)",
        ),
        run=(*feed, *fetch),
        takes_image=picture,
    )
