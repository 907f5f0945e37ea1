"""Files of `timmx openvino` are read by OpenVINO, and what is damaged, missing or too new is one clear error."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import openvino
import pytest
import timmx
from damaged import change, refused
from timmx.errors import ArtifactError, BackendError, ConfigurationError, RuntimeUnavailable
from timmx.registry import load


@pytest.fixture(scope="module")
def exported(exported_digits):
    return exported_digits("openvino")


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of the digits, `m.xml` and `m.bin`."""
    shutil.copy(exported, tmp_path / "m.xml")
    shutil.copy(exported.with_suffix(".bin"), tmp_path / "m.bin")
    return tmp_path / "m.xml"


def test_metadata_is_read_with_openvino(exported):
    model = openvino.Core().read_model(exported)
    metadata = json.loads(model.get_rt_info("timmx").astype(str))
    assert metadata["labels"] == [str(digit) for digit in range(10)]
    assert [port.any_name for port in model.inputs] == ["input"]
    assert [port.any_name for port in model.outputs] == ["output"]
    assert openvino.layout_helpers.get_layout(model.input("input")) == openvino.Layout("NCHW")


OPENED_TWICE = """
import mmap, signal, sys, timmx

signal.signal(signal.SIGINT, signal.default_int_handler)
first, second = timmx.open(sys.argv[1]), timmx.open(sys.argv[1])
first.close()
del first
second.close()
del second
taken = [mmap.mmap(-1, 16384, prot=mmap.PROT_READ) for _ in range(50)]  # memory that was freed
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO sets a stack for signals on Linux only")
def test_ctrl_c_after_two_files_were_closed(exported, process):
    done = process([sys.executable, "-c", OPENED_TWICE, str(exported)])
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


def test_missing_weights(copy):
    copy.with_suffix(".bin").unlink()
    refused(copy, ArtifactError, r"m.bin is missing, and m.xml needs it")


def test_truncated_weights(copy):
    content = copy.with_suffix(".bin").read_bytes()
    copy.with_suffix(".bin").write_bytes(content[: len(content) // 2])
    refused(copy, ArtifactError, r"m.bin is not the file that m.xml was written with")


def test_weights_of_another_model(copy):
    content = bytearray(copy.with_suffix(".bin").read_bytes())
    content[100] ^= 1
    copy.with_suffix(".bin").write_bytes(content)
    refused(copy, ArtifactError, r"m.bin is not the file that m.xml was written with")


def test_weights_of_a_file_of_another_tool(copy, exported):
    """Without a hash, the sizes of the weights are compared with that of the file."""
    model = openvino.Core().read_model(exported)
    model.set_rt_info("", "timmx")
    openvino.save_model(model, copy, compress_to_fp16=False)
    change(copy, '<timmx value="" />', "")
    assert load("openvino").read_metadata(copy) == {}
    content = copy.with_suffix(".bin").read_bytes()
    copy.with_suffix(".bin").write_bytes(content[:-1])
    refused(copy, ArtifactError, r"m.bin is cut off: it has [\d,]+ bytes, and m.xml needs")
    copy.with_suffix(".bin").unlink()
    refused(copy, ArtifactError, r"m.bin is missing")


def test_a_later_version_of_the_format(copy):
    change(copy, 'version="11"', 'version="12"')
    refused(
        copy, RuntimeUnavailable, r"has version 12 of OpenVINO IR, and this timmx-openvino reads up to 11"
    )


def test_an_operation_of_a_later_version(copy):
    change(copy, 'type="Convolution" version="opset1"', 'type="Convolution" version="opset99"')
    with pytest.raises(RuntimeUnavailable, match="does not have an operation of") as caught:
        timmx.open(copy)
    assert caught.value.hint == "uv pip install --upgrade openvino"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<html></html>",
        "<net name='m' version='11'><layers/></net>",
        "<net name='m' version='eleven'><layers><layer type='Parameter'/></layers></net>",
        "<!DOCTYPE net [<!ENTITY a 'aaaa'>]><net version='11'><layers><layer name='&a;'/></layers></net>",
        "<net version='11'><layers><layer type='Const'><data offset='-9' size='1'/></layer></layers></net>",
    ],
)
def test_other_xml_is_not_a_model(copy, content):
    copy.write_text(content)
    refused(copy, ArtifactError, "not an OpenVINO model")


@pytest.mark.parametrize(("kind", "missing"), [("Result", "output"), ("Parameter", "input")])
def test_a_graph_without_inputs_or_outputs(copy, kind, missing):
    change(copy, f'type="{kind}"', 'type="Sigmoid"')
    refused(copy, ArtifactError, f"m.xml is not an OpenVINO model, or is damaged: it has no {missing}")


def test_a_connection_to_an_operation_that_is_not_there(copy):
    change(copy, '<edge from-layer="', '<edge from-layer="99999')
    with pytest.raises(ArtifactError, match="a connection names a layer that it does not have") as caught:
        timmx.open(copy)
    assert caught.value.hint == "export it again"


def test_the_weights_are_named_in_place_of_the_graph(copy):
    with pytest.raises(BackendError, match=r"m\.bin is a part of m\.xml") as caught:
        timmx.open(copy.with_suffix(".bin"))
    assert caught.value.hint == "name m.xml instead"


def test_a_truncated_file_is_reported(copy):
    whole = copy.read_bytes()
    for length in (10, 1000, len(whole) // 2, len(whole) - 20):
        copy.write_bytes(whole[:length])
        refused(copy, ArtifactError, "not an OpenVINO model, or is damaged")


def test_a_device_that_is_not_there(exported):
    if any(name.startswith("NPU") for name in openvino.Core().available_devices):
        pytest.skip("this machine has an NPU")
    with pytest.raises(RuntimeUnavailable, match=r"no device NPU on this machine, only .*CPU") as caught:
        timmx.open(exported, runtime_device="npu")
    assert caught.value.hint.startswith("use --runtime-device cpu")


def test_the_cpu_that_openvino_chooses_computes_as_the_cpu(exported_digits):
    """In float32, also where its default for fp16 is bfloat16, and with the number of threads."""
    exported = exported_digits("openvino", mode="fp16")
    inputs = {"input": np.zeros((1, 3, 64, 64), np.float32)}
    with (
        timmx.open(exported, threads=1) as cpu,
        timmx.open(exported, runtime_device="auto", threads=1) as auto,
    ):
        np.testing.assert_allclose(cpu.run(inputs)["output"], auto.run(inputs)["output"], atol=1e-3)
        facts = auto._compiled.get_property("DEVICE_PROPERTIES")
    if "CPU" in facts:
        assert facts["CPU"]["INFERENCE_PRECISION_HINT"] == openvino.Type.f32
        assert facts["CPU"]["INFERENCE_NUM_THREADS"] == 1


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


def test_inspect_counts_operations_and_weights(exported):
    facts = load("openvino").inspect(exported)
    assert facts["operations"]["Convolution"] >= 4
    assert facts["weights"] == {"float32": 1.0}
    assert facts["inputs"] == [{"name": "input", "shape": [1, 3, 64, 64], "dtype": "float32"}]
    assert facts["outputs"] == [{"name": "output", "shape": [1, 10], "dtype": "float32"}]
