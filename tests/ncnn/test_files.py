"""Files of `timmx ncnn` are read by ncnn, and what is damaged, missing or unknown is one clear error."""

from __future__ import annotations

import json
import shutil

import ncnn
import numpy as np
import pytest
import timmx
from damaged import change, refused
from timmx.errors import ArtifactError, ConfigurationError, RuntimeUnavailable
from timmx.registry import load
from timmx_ncnn.param_file import METADATA_MARK, digest


@pytest.fixture(scope="module")
def exported(exported_digits):
    return exported_digits("ncnn")


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of the digits, `m.param` and `m.bin`."""
    shutil.copy(exported, tmp_path / "m.param")
    shutil.copy(exported.with_suffix(".bin"), tmp_path / "m.bin")
    return tmp_path / "m.param"


def foreign(path):
    """Remove what timmx has added: a file as other tools write it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("#")) + "\n", encoding="utf-8")


def rewrite(path, old, new):
    """Change the layers, and their hash in the metadata too, so that only ncnn can find out."""
    network, _, metadata = path.read_text("utf-8").rpartition(METADATA_MARK)
    before = digest(network.split("\n# ")[0].splitlines())
    assert old in network
    assert before in metadata
    network = network.replace(old, new, 1)
    metadata = metadata.replace(before, digest(network.split("\n# ")[0].splitlines()))
    path.write_text(network + METADATA_MARK + metadata, "utf-8")


def test_ncnn_loads_the_files_with_the_metadata_behind_the_layers(exported):
    net = ncnn.Net()
    assert net.load_param(str(exported)) == 0
    assert net.load_model(str(exported.with_suffix(".bin"))) == 0
    assert net.input_names() == ["input"]
    assert net.output_names() == ["output"]


def test_metadata_is_read_without_timmx(exported):
    last = exported.read_text("utf-8").split("\n# timmx ")[-1]
    assert json.loads(last)["labels"] == [str(digit) for digit in range(10)]


def test_comments_say_how_to_feed_the_file(exported):
    """With ncnn's own function, the numbers of the comment give timm's normalization."""
    comments = [line for line in exported.read_text("utf-8").splitlines() if line.startswith("# input")]
    assert comments[0] == "# input: 3 x 64 x 64, RGB"
    mean, norm = (
        [float(number.removesuffix("f")) for number in part.split("}")[0].split(", ")]
        for part in comments[1].split("{")[1:]
    )
    pixels = np.full((64, 64, 3), 200, np.uint8)
    mat = ncnn.Mat.from_pixels(pixels, ncnn.Mat.PixelType.PIXEL_RGB, 64, 64)
    mat.substract_mean_normalize(mean, norm)
    metadata = load("ncnn").read_metadata(exported)["input"]
    expected = (200 / 255 - np.array(metadata["mean"])) / metadata["std"]
    np.testing.assert_allclose(np.array(mat)[:, 0, 0], expected, rtol=1e-5)


def test_missing_weights(copy):
    copy.with_suffix(".bin").unlink()
    refused(copy, ArtifactError, r"m.bin is missing, and m.param needs it")


def test_truncated_weights(copy):
    content = copy.with_suffix(".bin").read_bytes()
    copy.with_suffix(".bin").write_bytes(content[: len(content) // 2])
    refused(copy, ArtifactError, r"m.bin is not the file that m.param was written with")


def test_weights_of_another_model(copy):
    content = bytearray(copy.with_suffix(".bin").read_bytes())
    content[100] ^= 1
    copy.with_suffix(".bin").write_bytes(content)
    refused(copy, ArtifactError, r"m.bin is not the file that m.param was written with")


def test_changed_layers(copy):
    """ncnn itself would compute with a stride of 1 as well as with 2."""
    change(copy, " 3=2 ", " 3=1 ")
    refused(copy, ArtifactError, r"m.param has other layers than it was written with")


def test_line_ends_of_windows_change_nothing(copy):
    copy.write_bytes(copy.read_bytes().replace(b"\n", b"\r\n"))
    with timmx.open(copy) as runner:
        assert runner.run({"input": np.ones((1, 3, 64, 64), np.float32)})["output"].shape == (1, 10)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_layers(copy, share):
    content = copy.read_text("utf-8")
    layers = content[: content.index("# ")]
    copy.write_text(layers[: int(share * len(layers))], "utf-8")
    refused(
        copy,
        ArtifactError,
        r"m.param is damaged: it has \d+ of \d+ layers",
    )


def test_truncated_metadata(copy):
    content = copy.read_text("utf-8")
    copy.write_text(content[:-40], "utf-8")
    refused(copy, ArtifactError, "m.param is damaged: its metadata is not JSON")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "its first line is not 7767517"),
        ("<xml/>", "its first line is not 7767517"),
        ("7767517\n", "its second line does not have the numbers"),
        ("7767517\n2 x\n", "its second line does not have the numbers"),
        ("7767517\n0 0\n", "it has 0 of 0 layers"),
        ("7767517\n999999999 1\nInput input 0 1 input\n", "it has 1 of 999999999 layers"),
    ],
)
def test_other_files_are_not_networks(copy, content, message):
    copy.write_text(content)
    refused(copy, ArtifactError, message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ReLU", "line 4 is not a layer"),
        ("ReLU r 1 1 input", "line 4 is not a layer"),
        ("ReLU r -1 1 input r", "line 4 is not a layer"),
        ("ReLU r 1 1 absent r", "no layer computes absent before line 4 takes it"),
        ("ReLU r 1 1 input input", "two layers compute input"),
        ("ReLU r 1 1 input r 99=1", "line 4 is not a layer"),
        ("ReLU r 1 1 input r -23300=3,1", "line 4 is not a layer"),
    ],
)
def test_line_that_is_not_a_layer_is_named(tmp_path, line, message):
    path = tmp_path / "m.param"
    path.write_text(f"7767517\n2 2\nInput input 0 1 input\n{line}\n")
    with pytest.raises(ArtifactError, match=message) as caught:
        load("ncnn").inspect(path)
    assert caught.value.hint


def test_layer_that_this_ncnn_does_not_have(copy):
    rewrite(copy, "\nConvolution ", "\nConvolutionOfTomorrow ")
    with pytest.raises(
        RuntimeUnavailable, match=r"does not have layers of .*: ConvolutionOfTomorrow"
    ) as caught:
        timmx.open(copy)
    assert caught.value.hint == "uv pip install --upgrade ncnn"


@pytest.mark.parametrize(("old", "new"), [(" 0=10 1=1 ", " 0=10 1=0 "), (" 0=10 1=1 2=", " 0=10 1=1 2=9")])
def test_layers_that_read_other_weights_than_the_file_has(copy, old, new):
    rewrite(copy, old, new)
    with pytest.raises(ArtifactError, match=r"m.bin is cut off, or is not the file of its .param"):
        timmx.open(copy)


def test_file_of_another_tool_is_inspected_but_not_run(copy):
    foreign(copy)
    assert load("ncnn").read_metadata(copy) == {}
    facts = load("ncnn").inspect(copy)
    assert facts["operations"]["Convolution"] >= 4
    assert facts["inputs"] == [{"name": "input", "shape": [3, 64, 64], "dtype": "float32"}]
    with pytest.raises(ArtifactError, match="was not written by timmx"):
        timmx.open(copy)


def test_inspect_counts_layers_and_weights(exported, exported_digits):
    facts = load("ncnn").inspect(exported)
    assert facts["operations"]["Convolution"] >= 4
    assert facts["weights"] == {"float32": 1.0}
    half = load("ncnn").inspect(exported_digits("ncnn", mode="fp16"))
    assert half["parameters"] == facts["parameters"]
    assert half["weights"]["float16"] > 0.98


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": np.zeros((1, 3, 64, 64), np.float32)}, "the file takes input, but got x"),
        ({"input": np.zeros((2, 3, 64, 64), np.float32)}, r"but got shape \(2, 3, 64, 64\)"),
        ({"input": np.zeros((3, 64, 64), np.float32)}, r"but got shape \(3, 64, 64\)"),
    ],
)
def test_wrong_inputs_are_refused(exported, feeds, message):
    with timmx.open(exported) as runner, pytest.raises(ConfigurationError, match=message):
        runner.run(feeds)


def test_gpu_that_is_not_there(exported):
    if ncnn.get_gpu_count():
        pytest.skip("this machine has a GPU with Vulkan")
    with pytest.raises(RuntimeUnavailable, match="ncnn finds no GPU with Vulkan") as caught:
        timmx.open(exported, runtime_device="gpu")
    assert caught.value.hint.startswith("use --runtime-device cpu")


@pytest.mark.parametrize(("mode", "tolerance"), [("fp32", 1e-3), ("fp16", 0.1)])
def test_gpu_computes_the_same(exported_digits, mode, tolerance):
    if not ncnn.get_gpu_count():
        pytest.skip("ncnn finds no GPU with Vulkan")
    path = exported_digits("ncnn", mode=mode)
    inputs = {"input": np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)}
    with timmx.open(path) as cpu, timmx.open(path, runtime_device="gpu") as gpu:
        np.testing.assert_allclose(cpu.run(inputs)["output"], gpu.run(inputs)["output"], atol=tolerance)


@pytest.mark.parametrize("threads", [1, 2])
def test_number_of_threads(exported, threads):
    inputs = {"input": np.ones((1, 3, 64, 64), np.float32)}
    with timmx.open(exported) as one, timmx.open(exported, threads=threads) as other:
        np.testing.assert_allclose(one.run(inputs)["output"], other.run(inputs)["output"], atol=1e-4)
