"""`timmx coreml`: the files, as coremltools and timmx's evaluator read them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import timmx
import torch
from PIL import Image
from timmx.errors import ConfigurationError, UnsupportedError
from timmx.registry import discovery as registry
from timmx.testing import awakened_model
from torch import nn

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory):
    """Two samples of each digit: enough to distinguish a correct file from a wrong one in a second."""
    folder = tmp_path_factory.mktemp("digits")
    for kind in sorted((DIGITS / "samples").iterdir()):
        for path in sorted(kind.iterdir())[:2]:
            (folder / f"{kind.name}-{path.name}").write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def export(tmp_path_factory, digits, few_digits):
    def run(model=digits, name="digits", **options):
        suffix = ".mlmodel" if options.get("convert_to") == "neuralnetwork" else ".mlpackage"
        options = {"verify_data": few_digits} | options
        output = tmp_path_factory.mktemp("export") / f"{name}{suffix}"
        result = timmx.export("coreml", model, output=output, **options)
        assert result.verification.status == "verified", result.verification.reason
        return result

    return run


class Tiny(nn.Module):
    """For tests of options: it converts in half a second. Its weight is too small to be compressed."""

    def __init__(self, channels=3):
        super().__init__()
        self.pretrained_cfg = {
            "input_size": (channels, 16, 16),
            "architecture": "tiny",
            "mean": (0,) * channels,
            "std": (1,) * channels,
        }
        self.conv = nn.Conv2d(channels, 4, 3)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            nn.init.normal_(self.conv.weight)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


FORMS = {
    "float16": ({}, "fp16", None),
    "float32": ({"compute_precision": "float32"}, "fp32", None),
    "int8": ({"quantize": "int8"}, "int8-weights", "constexpr_affine_dequantize"),
    "int8 ios18": (
        {"quantize": "int8", "target": "ios18"},
        "int8-weights",
        "constexpr_blockwise_shift_scale",
    ),
    "int4": ({"quantize": "int4"}, "int4-weights", "constexpr_blockwise_shift_scale"),
    "palette8": ({"quantize": "palette8"}, "int8-weights", "constexpr_lut_to_dense"),
    "palette6": ({"quantize": "palette6"}, "int6-weights", "constexpr_lut_to_dense"),
    "palette4": ({"quantize": "palette4"}, "int4-weights", "constexpr_lut_to_dense"),
    "palette4 macos15": (
        {"quantize": "palette4", "target": "macos15"},
        "int4-weights",
        "constexpr_lut_to_dense",
    ),
    "int8 float32": (
        {"quantize": "int8", "compute_precision": "float32"},
        "int8-weights",
        "constexpr_affine_dequantize",
    ),
}
"""Options, the precision that the result states, and the operation that decompresses weights."""


@pytest.fixture(scope="module")
def forms(export, digits, few_digits, tmp_path_factory):
    """The digits model in each weight form, from one capture: name -> result."""
    folder = tmp_path_factory.mktemp("forms")
    targets = [
        {"format": "coreml", "output": f"{name.replace(' ', '-')}.mlpackage"} | options
        for name, (options, _, _) in FORMS.items()
    ]
    many = timmx.export_many(digits, targets, folder, verify_data=few_digits)
    results = {result.path.stem.replace("-", " "): result for result in many.results}
    assert results.keys() == FORMS.keys(), many.failures
    return results


def spec(path):
    import coremltools as ct

    return ct.utils.load_spec(str(path))


@pytest.mark.parametrize("form", FORMS)
def test_weight_forms_keep_the_accuracy_of_digits(forms, form):
    options, precision, constexpr = FORMS[form]
    result = forms[form]
    assert result.verification.status == "verified"
    assert result.precision == precision
    assert result.verification.top1_agreement >= 0.95
    assert "evaluator" in result.verification.engine or sys.platform == "darwin"
    report = registry.load("coreml").inspect(result.path)
    assert report["parameters"] == pytest.approx(100_500, abs=20)
    if constexpr is None:
        assert report["compressed_weights"] == {}
    else:
        assert report["compressed_weights"] == {constexpr: 12}  # the weights of 2048 elements and more
        uncompressed_bytes = 404_392 if "compute_precision" in options else 203_476
        assert report["weights_bytes"] < 0.65 * uncompressed_bytes


def test_fewer_bits_make_smaller_files_and_more_noise(forms):
    results = [forms[form] for form in ("float16", "palette8", "palette6", "palette4")]
    sizes = [result.size_bytes for result in results]
    ratios = [result.verification.snr_db for result in results]
    assert sizes == sorted(sizes, reverse=True)
    assert ratios == sorted(ratios, reverse=True)


def test_model_with_only_small_weights_stays_uncompressed_with_a_note(export):
    result = export(Tiny(), quantize="int8", verify_data=None)
    assert result.precision == "fp16"
    assert any("No weight is large enough" in note for note in result.notes)


def test_model_whose_weights_all_stand_in_the_program_is_written(export):
    model = Tiny()
    model.conv = nn.Conv2d(3, 2, 1)  # no weight is large enough for the weight file
    result = export(model, verify_data=None)
    assert result.verification.status == "verified"
    assert not list(result.path.rglob("weight.bin"))


def test_image_classifier_takes_an_image_and_returns_classes(export, digits):
    result = export(image_input=True, normalize=True, classifier=True, softmax=True)
    description = spec(result.path).description
    (input_,) = description.input
    assert (input_.name, input_.type.imageType.width, input_.type.imageType.height) == ("input", 64, 64)
    assert input_.type.imageType.colorSpace == input_.type.imageType.ColorSpace.Value("RGB")
    assert [output.name for output in description.output] == ["classLabel", "classLabel_probs"]
    assert description.predictedFeatureName == "classLabel"
    assert description.metadata.userDefined["com.apple.coreml.model.preview.type"] == "imageClassifier"

    metadata = result.metadata
    assert metadata["input"]["dtype"] == "uint8"
    assert metadata["input"]["value_range"] == [0, 255]
    assert metadata["format"]["label_output"] == "classLabel"
    assert not result.notes

    with Image.open(next((DIGITS / "samples" / "7").iterdir())) as image:
        pixels = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
    with timmx.open(result.path) as runner:
        assert runner.inputs[0].dtype == "uint8"
        probabilities = runner.run({"input": pixels.transpose(2, 0, 1)[None]})["output"]
        assert probabilities.sum() == pytest.approx(1, abs=1e-2)
        assert metadata["labels"][int(probabilities.argmax())] == "7"
        with pytest.raises(TypeError, match="uint8"):
            runner.run({"input": np.zeros((1, 3, 64, 64), np.float32)})


def test_neuralnetwork_takes_an_image(export):
    result = export(
        convert_to="neuralnetwork", image_input=True, normalize=True, classifier=True, softmax=True, half=True
    )
    described = spec(result.path)
    assert described.WhichOneof("Type") == "neuralNetworkClassifier"
    assert {output.name for output in described.description.output} == {"classLabel", "classLabel_probs"}
    assert described.description.predictedProbabilitiesName == "classLabel_probs"
    assert result.precision == "fp16"
    assert result.verification.top1_agreement == 1.0


def test_grayscale_image_input(export):
    result = export(Tiny(channels=1), image_input=True, normalize=True, verify_data=None)
    image = spec(result.path).description.input[0].type.imageType
    assert image.colorSpace == image.ColorSpace.Value("GRAYSCALE")
    with timmx.open(result.path) as runner:
        assert runner.inputs[0].shape == (1, 1, 16, 16)


def test_image_input_of_other_channels_is_refused_after_loading_the_model(export, tmp_path, digits):
    import timm

    model = timm.create_model("test_resnet", in_chans=5)
    with pytest.raises(ConfigurationError, match="5 channels\nhint: leave out --image-input"):
        timmx.export("coreml", model, output=tmp_path / "a.mlpackage", image_input=True, normalize=True)
    assert list(tmp_path.iterdir()) == []


def test_classifier_of_logits_has_a_note(export):
    result = export(Tiny(), classifier=True, labels=list("abcd"), verify_data=None)
    assert any("logits" in note for note in result.notes)


def test_classifier_needs_class_names(export, tmp_path, awakened):
    with pytest.raises(ConfigurationError, match="hint: add --labels FILE"):
        timmx.export(
            "coreml", "test_resnet", checkpoint=awakened("test_resnet"), output=tmp_path / "a.mlpackage",
            classifier=True,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_labels_of_a_classifier_are_counted_before_the_conversion(tmp_path, digits):
    with pytest.raises(ConfigurationError, match="10"):
        timmx.export(
            "coreml", digits, output=tmp_path / "a.mlpackage", classifier=True, labels=["one", "two"]
        )


@pytest.mark.parametrize("kind", ["mlprogram", "neuralnetwork"])
def test_dynamic_batch_size_has_a_range(export, kind):
    result = export(Tiny(), dynamic_batch=True, convert_to=kind, batch_upper_bound=5, verify_data=None)
    assert result.verification.batch_sizes == (1, 2, 5)
    assert result.metadata["batch"] == {"dynamic": True}
    assert result.metadata["format"]["batch_range"] == [1, 5]
    (first, *_) = spec(result.path).description.input[0].type.multiArrayType.shapeRange.sizeRanges
    assert (first.lowerBound, first.upperBound) == (1, 5)
    with timmx.open(result.path) as runner:
        assert runner.inputs[0].shape == ("batch", 3, 16, 16)
        assert runner.run({"input": np.zeros((4, 3, 16, 16), np.float32)})["output"].shape == (4, 4)
        with pytest.raises(ValueError, match="input"):
            runner.run({"input": np.zeros((6, 3, 16, 16), np.float32)})


@pytest.mark.parametrize("kind", ["mlprogram", "neuralnetwork"])
def test_enumerated_batch_sizes(export, kind):
    result = export(Tiny(), dynamic_batch=True, convert_to=kind, batch_sizes=(4, 1, 8), verify_data=None)
    assert result.verification.batch_sizes == (1, 4, 8)
    assert result.metadata["format"]["batch_sizes"] == [4, 1, 8]
    array = spec(result.path).description.input[0].type.multiArrayType
    assert sorted(shape.shape[0] for shape in array.enumeratedShapes.shapes) == [1, 4, 8]
    assert array.shape[0] == 4
    with timmx.open(result.path) as runner, pytest.raises(ValueError, match="input"):
        runner.run({"input": np.zeros((2, 3, 16, 16), np.float32)})


def test_description_for_xcode_has_license_author_and_preprocessing(export):
    result = export(normalize=True)
    description = spec(result.path).description
    info = description.metadata
    assert info.license == "apache-2.0"
    assert info.author
    assert info.versionString.startswith("digits, weights sha256:d1abf249")
    assert info.shortDescription.startswith("test_efficientnet: image classifier, 10 classes")
    assert "pixels from 0 to 1" in description.input[0].shortDescription
    assert "bicubic" in description.input[0].shortDescription
    assert "Logits" in description.output[0].shortDescription
    assert json.loads(info.userDefined["timmx"]) == result.metadata
    assert (description.input[0].name, description.output[0].name) == ("input", "output")
    array_type = description.input[0].type.multiArrayType
    assert array_type.dataType == array_type.ArrayDataType.Value("FLOAT32")


def test_inputs_and_outputs_are_float32_for_late_targets_too(export):
    description = spec(export(Tiny(), target="ios18", verify_data=None).path).description
    for feature in (*description.input, *description.output):
        kind = feature.type.multiArrayType
        assert kind.dataType == kind.ArrayDataType.Value("FLOAT32")


def small_vit():
    return awakened_model("test_vit", img_size=64, depth=2)


@pytest.fixture(scope="module")
def vit(export):
    return export(small_vit(), input_size=(3, 64, 64), target="ios18", verify_data=None)


def test_file_contains_no_trace_of_the_exporting_machine(vit):
    files = [path for path in vit.path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["Manifest.json", "model.mlmodel", "weight.bin"]
    for path in files:
        content = path.read_bytes()
        assert b"site-packages" not in content
        assert b".py" not in content
        assert b"conversion_date" not in content


def test_coremltools_reads_the_package(forms):
    import coremltools as ct

    result = forms["float16"]
    model = ct.models.MLModel(str(result.path), skip_model_load=True)
    assert json.loads(model.user_defined_metadata["timmx"]) == result.metadata
    assert model.short_description


def test_metadata_is_read_without_torch_or_coremltools(forms):
    result = forms["float16"]
    code = (
        "import sys, json\nfrom pathlib import Path\nfrom timmx import registry\n"
        "backend = registry.load('coreml')\n"
        "print(backend.read_metadata(Path(sys.argv[1]))['schema'], len(backend.inspect(Path(sys.argv[1]))))\n"
        "print(sorted({'torch', 'coremltools', 'numpy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(result.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0].startswith("1 ")
    assert done.stdout.splitlines()[1] == "[]"


def test_attention_of_ios18_stays_one_operation(vit):
    assert registry.load("coreml").inspect(vit.path)["operations"]["scaled_dot_product_attention"] > 0


def test_inspect_reports_what_keeps_a_file_off_the_neural_engine(export, forms):
    backend = registry.load("coreml")
    report = backend.inspect(forms["float16"].path)
    assert report["runs_on"] == "iOS 15, macOS 12"
    assert report["precision"]["float16"] > 30
    assert report["off_neural_engine"] == []
    options = {"compute_precision": "float32", "dynamic_batch": True, "verify_data": None}
    float32 = backend.inspect(export(Tiny(), **options).path)
    assert len(float32["off_neural_engine"]) == 2
    assert "float32" in float32["off_neural_engine"][0]
    assert "--batch-sizes" in float32["off_neural_engine"][1]
    picture = backend.inspect(export(Tiny(), image_input=True, normalize=True, verify_data=None).path)
    assert picture["off_neural_engine"] == []


class Loud(nn.Module):
    """Intermediate values overflow float16 for bright images, but not for dark ones."""

    pretrained_cfg: ClassVar = {"input_size": (3, 16, 16), "architecture": "loud"}

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        torch.manual_seed(0)
        nn.init.normal_(self.conv.weight, std=3e4)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x):
        return (torch.relu(self.conv(x)) * 1e-4).mean((2, 3))


def test_operations_with_large_values_stay_float32_with_a_note(export):
    result = export(Loud(), verify_data=None)
    assert result.precision == "fp16"
    assert any("stay in float32" in note for note in result.notes)
    report = registry.load("coreml").inspect(result.path)
    assert any("in float32" in reason for reason in report["off_neural_engine"])


def loud_images(folder: Path, dark: int) -> dict:
    """Options for images of which the first `dark` are black, and the next overflow float16."""
    folder.mkdir()
    for number, value in enumerate((*dark * [0], 50, 180, 255)):
        image = Image.new("RGB", (16, 16), (value, value // 2, value // 3))
        image.save(folder / f"{number:02}.png")
    return {"verify_data": folder, "normalize": True, "mean": (0.0,), "std": (1.0,)}


def test_operations_that_overflow_during_verification_are_repaired(export, tmp_path):
    # Float32 operations are selected with the first image, and again with eight if verification fails.
    result = export(Loud(), **loud_images(tmp_path / "images", dark=1))
    assert result.precision == "fp16"
    assert result.verification.status == "verified"
    assert any("float32" in note for note in result.notes)


def test_overflow_during_verification_names_the_operation(export, tmp_path):
    options = loud_images(tmp_path / "images", dark=8) | {"output": tmp_path / "a.mlpackage"}
    with pytest.raises(timmx.VerificationError, match=r"overflow float16.*conv.*--compute-precision float32"):
        timmx.export("coreml", Loud(), **options)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "images"]
    float32 = timmx.export("coreml", Loud(), compute_precision="float32", **options)
    assert float32.verification.status == "verified"


def test_unsupported_operation_is_reported(export, tmp_path):
    class Odd(nn.Module):
        pretrained_cfg: ClassVar = {"input_size": (3, 16, 16), "architecture": "odd"}

        def forward(self, x):
            return torch.special.bessel_j0(x).mean((2, 3))

    with pytest.raises(UnsupportedError, match="bessel"):
        timmx.export("coreml", Odd(), output=tmp_path / "a.mlpackage")
    assert list(tmp_path.iterdir()) == []


def test_inner_tensors_are_those_of_the_program(export):
    model = small_vit()
    result = export(model, compute_precision="float32", input_size=(3, 64, 64), verify_data=None)
    inputs = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with timmx.open(result.path) as runner, torch.inference_mode():
        names = runner.intermediates
        values = runner.run_intermediates({"input": inputs.numpy()}, names)
        assert tuple(values) == names
        expected = model.patch_embed.proj(inputs).numpy()
        first = next(name for name in names if values[name].size == expected.size)
        np.testing.assert_allclose(values[first].ravel(), expected.ravel(), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(values[names[-1]], runner.run({"input": inputs.numpy()})["output"])


def test_a_neuralnetwork_gives_no_inner_tensors(export):
    result = export(Tiny(), convert_to="neuralnetwork", verify_data=None)
    with timmx.open(result.path) as runner:
        assert runner.intermediates == ()
        with pytest.raises(UnsupportedError, match="returns only outputs"):
            runner.run_intermediates({"input": np.zeros((1, 3, 16, 16), np.float32)}, ("x",))
