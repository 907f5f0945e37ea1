"""`TFLITE_METADATA` and the files appended to a model, checked with the library that reads them: MediaPipe.

What MediaPipe 1.2.3 refuses is tested too: if such a test fails, the guide to Android may promise more.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import types
import zipfile
from functools import cache

import numpy as np
import pytest
import torch
from timmx.errors import ArtifactError
from timmx_litert import task_metadata
from timmx_litert.task_metadata import ImageInput, Output, Tensor
from torch import nn

pytestmark = pytest.mark.usefixtures("export")

SIZE = 24, 20
LABELS = ("tench", "great white", "Hündin", "crane (134)", "a, b")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


class Classifier(nn.Module):
    """A convolution and a head, for pixels in [0, 1] or bytes (N, H, W, C), with or without normalization."""

    def __init__(self, *, normalize=True, pixel_bytes=False, softmax=True, channels=3):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(channels, 8, 3, 2)
            self.head = nn.Linear(8, len(LABELS))
        self.normalize, self.pixel_bytes, self.softmax = normalize, pixel_bytes, softmax

    def forward(self, input):
        if self.pixel_bytes:
            input = input.float() / 255
        if self.normalize:
            input = (input - torch.tensor(MEAN)) / torch.tensor(STD)
        maps = self.convolution(input.permute(0, 3, 1, 2)).relu()
        scores = 4 * self.head(maps.mean((2, 3)))
        return {"output": scores.softmax(-1) if self.softmax else scores}


@cache
def converted(**options):
    litert_torch = pytest.importorskip("litert_torch", reason="converts the models")
    model = Classifier(**options).eval()
    example = torch.zeros(1, *SIZE, options.get("channels", 3))
    if model.pixel_bytes:
        example = example.to(torch.uint8)
    return litert_torch.convert(model, sample_kwargs={"input": example}).model_content()


def image(mean=(0.0,), std=(255.0,), channels=3):
    lowest, highest = -np.array(mean) / std, (255 - np.array(mean)) / std
    return ImageInput(
        "input",
        "An image.",
        tuple(lowest.tolist()),
        tuple(highest.tolist()),
        channels=channels,
        size=SIZE,
        mean=mean,
        std=std,
    )


def entry(tensor=None):
    return task_metadata.build(
        name="test",
        description="A classifier.",
        version="1",
        author="timmx",
        license="apache-2.0",
        inputs=[tensor or image()],
        outputs=[Output("output", "Probabilities.", (0.0,), (1.0,), labels_file="labels.txt")],
    )


def read_artifact(model, content, labels=LABELS):
    """The model with the entry in its metadata list and a labels file appended."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    item, buffer = schema.MetadataT(), schema.BufferT()
    item.name, item.buffer = task_metadata.NAME, len(tree.buffers)
    buffer.data = np.frombuffer(content, np.uint8)
    tree.buffers.append(buffer)
    tree.metadata = [*(tree.metadata or []), item]
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return appended(bytes(builder.Output()), {"labels.txt": task_metadata.labels_content(labels)})


def appended(model, files):
    stream = io.BytesIO()
    stream.write(model)
    task_metadata.append_files(stream, files)
    return stream.getvalue()


def scores(module, pixels):
    with torch.no_grad():
        return module.eval()(torch.from_numpy(pixels)[None])["output"][0].numpy()


PIXELS = IMAGE.astype(np.float32)


@pytest.mark.parametrize(
    ("options", "tensor", "fed"),
    [
        pytest.param({}, image(), PIXELS / 255, id="the graph normalizes"),
        pytest.param(
            {"normalize": False}, image((127.5,), (127.5,)), PIXELS / 127.5 - 1, id="MediaPipe normalizes"
        ),
        pytest.param(
            {"normalize": False},
            image((127.5,) * 3, (64.0,) * 3),
            (PIXELS - 127.5) / 64,
            id="MediaPipe normalizes per channel",
        ),
        pytest.param({"pixel_bytes": True}, image((0.0,), (1.0,)), IMAGE, id="bytes"),
    ],
)
def test_mediapipe_gives_the_scores_of_the_model(options, tensor, fed, classify):
    ((head, result),) = classify(read_artifact(converted(**options), entry(tensor)), IMAGE)
    expected = scores(Classifier(**options), fed)
    assert head == "output"
    assert set(result) == set(LABELS)
    assert expected.max() - expected.min() > 0.1
    np.testing.assert_allclose([result[label] for label in LABELS], expected, rtol=1e-4, atol=1e-6)


def test_mediapipe_reports_logits_as_scores(classify):
    ((_, result),) = classify(read_artifact(converted(softmax=False), entry()), IMAGE)
    expected = scores(Classifier(softmax=False), PIXELS / 255)
    assert expected.min() < 0
    np.testing.assert_allclose([result[label] for label in LABELS], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("tensor", "options", "error", "reason"),
    [
        pytest.param(
            image(tuple(255 * mean for mean in MEAN), tuple(255 * std for std in STD)),
            {},
            NotImplementedError,
            "Per-channel image normalization",
            id="ImageNet's mean and std",
        ),
        pytest.param(image(channels=1), {"channels": 1}, ValueError, "Only RGB color space", id="gray"),
        pytest.param(Tensor("input", "Features."), {}, ValueError, "Expected ImageProperties", id="no image"),
    ],
)
def test_mediapipe_refuses(tensor, options, error, reason, classify):
    model = converted(normalize=False, **options)
    with pytest.raises(error, match=reason):
        classify(read_artifact(model, entry(tensor)), IMAGE)


@pytest.mark.usefixtures("mediapipe")
def test_mediapipe_shows_what_was_written(monkeypatch):
    # MediaPipe 1.2.3 ships this module of the displayer without the extension that only its writer uses.
    package = types.ModuleType("mediapipe.tasks.cc.metadata.python")
    package._pywrap_metadata_version = None
    monkeypatch.setitem(sys.modules, package.__name__, package)
    from mediapipe.tasks.python.metadata.metadata import MetadataDisplayer

    content = entry(image((127.5, 120.0, 0.25), (0.5, 2.0, 0.25)))
    shown = MetadataDisplayer.with_model_buffer(read_artifact(converted(), content))
    assert json.loads(shown.get_metadata_json()) == task_metadata.read(content, "model.tflite")
    assert shown.get_packed_associated_file_list() == ["labels.txt"]
    assert shown.get_associated_file_buffer("labels.txt").decode().split("\n") == list(LABELS)


def test_every_written_field_is_read():
    tensor = image((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    result = task_metadata.read(entry(tensor), "model.tflite")
    (graph,) = result.pop("subgraph_metadata")
    assert result == {
        "name": "test",
        "description": "A classifier.",
        "version": "1",
        "author": "timmx",
        "license": "apache-2.0",
        "min_parser_version": "1.0.0",
    }
    (read,) = graph["input_tensor_metadata"]
    assert read["content"] == {
        "content_properties_type": "ImageProperties",
        "content_properties": {"color_space": "RGB", "default_size": {"width": SIZE[1], "height": SIZE[0]}},
    }
    normalization = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
    assert read["process_units"] == [{"options_type": "NormalizationOptions", "options": normalization}]
    (output,) = graph["output_tensor_metadata"]
    assert output["stats"] == {"max": [1.0], "min": [0.0]}
    (file,) = output["associated_files"]
    assert (file["name"], file["type"]) == ("labels.txt", "TENSOR_AXIS_LABELS")


@pytest.mark.usefixtures("mediapipe")
def test_unknown_fields_of_other_writers_are_ignored():
    import flatbuffers
    from mediapipe.tasks.metadata import metadata_schema_py_generated as schema

    sound, content, unit = schema.TensorMetadataT(), schema.ContentT(), schema.ProcessUnitT()
    content.contentPropertiesType = schema.ContentProperties.AudioProperties
    content.contentProperties = schema.AudioPropertiesT()
    content.contentProperties.sampleRate = 16000
    unit.optionsType = schema.ProcessUnitOptions.ScoreThresholdingOptions
    unit.options = schema.ScoreThresholdingOptionsT()
    unit.options.globalScoreThreshold = 0.1
    sound.content, sound.processUnits, sound.dimensionNames = content, [unit], ["batch", "time"]
    graph, custom, model = schema.SubGraphMetadataT(), schema.CustomMetadataT(), schema.ModelMetadataT()
    custom.name, custom.data = "SEGMENTER_METADATA", b"\0" * 16
    graph.inputTensorMetadata, graph.customMetadata = [sound], [custom]
    model.name, model.subgraphMetadata = "yamnet", [graph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"M001")
    assert task_metadata.read(bytes(builder.Output()), "model.tflite") == {
        "name": "yamnet",
        "subgraph_metadata": [
            {
                "input_tensor_metadata": [
                    {
                        "dimension_names": ["batch", "time"],
                        "content": {"content_properties_type": "AudioProperties"},
                        "process_units": [
                            {
                                "options_type": "ScoreThresholdingOptions",
                                "options": {"global_score_threshold": 0.1},
                            }
                        ],
                    }
                ]
            }
        ],
    }


def test_damaged_metadata_is_an_artifact_error_or_still_json():
    content = entry()
    refused = []
    damaged = [content[:end] for end in range(len(content))]
    for position in range(len(content)):
        for value in (0x00, 0x7F, 0xFF):
            damaged.append(content[:position] + bytes([value]) + content[position + 1 :])
    for candidate in damaged:
        try:
            json.dumps(task_metadata.read(candidate, "model.tflite"))
        except ArtifactError as error:
            refused.append(str(error))
    assert len(refused) > len(content)
    assert all("model.tflite: its TFLITE_METADATA is damaged" in message for message in refused)


def test_appended_files_follow_the_layout_of_androids_extractor():
    """`org.tensorflow.lite.support.metadata.ZipFile` requires: no comment, one disk, offsets in the whole file."""
    model = b"TFL3" * 25 + b"\1"  # an odd length
    files = {"labels.txt": b"a\nb", "more.txt": b"c"}
    content = appended(model, files)
    assert content[: len(model)] == model
    end, *_, start = struct.unpack("<QHHII", content[-22:-2])
    assert end == 0x06054B50
    result = {}
    while content[start : start + 4] == b"PK\1\2":
        method, size, name, extra, comment, header = struct.unpack(
            "<10xH12xIHHH8xI", content[start : start + 46]
        )
        name_at, data_at = (
            start + 46,
            header + 30 + sum(struct.unpack("<HH", content[header + 26 : header + 30])),
        )
        result[content[name_at : name_at + name].decode()] = content[data_at : data_at + size]
        assert method == 0
        start = name_at + name + extra + comment
    assert result == files


def test_same_model_gives_the_same_bytes():
    assert entry() == entry()
    assert appended(b"model", {"labels.txt": b"a"}) == appended(b"model", {"labels.txt": b"a"})
    assert appended(b"model", {}) == b"model"


def test_associated_files(tmp_path):
    path = tmp_path / "model.tflite"
    content = appended(b"weights" * 10, {"labels.txt": b"tench\ncrane", "more.txt": b""})
    path.write_bytes(content)
    assert zipfile.is_zipfile(path)
    assert task_metadata.associated_files(path) == ("labels.txt", "more.txt")
    path.write_bytes(content.replace(b"tench", b"tenth"))
    with pytest.raises(ArtifactError, match=r"model\.tflite is damaged: the attached file labels\.txt"):
        task_metadata.associated_files(path)
    path.write_bytes(content.replace(b"PK\1\2", b"PK\1\3"))
    with pytest.raises(ArtifactError, match="is damaged"):
        task_metadata.associated_files(path)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"weights PK\5\6 that look like an archive's end" * 9])
def test_model_without_an_archive_has_no_associated_files(tmp_path, content):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    assert task_metadata.associated_files(path) == ()


def test_each_class_has_one_line_in_the_labels_file():
    assert task_metadata.labels_content(["a\nb", "c \r\n d", "é"]).decode() == "a b\nc d\né"
