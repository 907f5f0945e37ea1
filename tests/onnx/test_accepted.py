"""Files of `--mode int8` and `--io uint8` run in onnxruntime-web and OpenVINO as in ONNX Runtime."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import node
import numpy as np
import onnxruntime
import pytest
from conftest import DIGITS
from timmx.plugin import feed
from timmx.testing import awakened_model
from timmx.tools.subject.subject import open_subject

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES = DIGITS / "samples"
IMAGES = sorted(SAMPLES.glob("*/*"))[::25]
"""Two of each class."""
INTEGERS = {"mode": "int8", "calibration_data": SAMPLES}
BYTES = {"io": "uint8", "normalize": True}


@dataclass(frozen=True)
class Case:
    """One export of the digits model.

    Attributes:
        options: of `timmx onnx`.
        least_db: the least signal-to-noise ratio of the outputs of a runtime against those of ONNX Runtime.
    """

    options: dict
    least_db: float


CASES = {
    "int8": Case(INTEGERS, 20),  # runtimes round differently, and on some CPUs they saturate
    "int8-reduce-range": Case(INTEGERS | {"reduce_range": True}, 30),
    "uint8": Case(BYTES, 90),
    "uint8-int8": Case(BYTES | INTEGERS, 20),
}
MODELS = {"mobilenetv3_small_050": {}, "test_vit2": {"depth": 2}}
"""Hard-swish, which is written as sums and products, and matrix products; with options for timm."""


def run(path: Path, inputs: np.ndarray) -> np.ndarray:
    """The outputs of ONNX Runtime, as those of all runtimes here, one input at a time."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": row[None]})[0] for row in inputs])


def snr_db(reference: np.ndarray, outputs: np.ndarray) -> float:
    noise = np.square(reference - outputs, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(reference, dtype=np.float64).sum() / max(noise, 1e-30)))


def read(path: Path) -> np.ndarray:
    """The images as a file takes them."""
    with open_subject(path) as subject:
        pixels = np.stack([subject.preprocessor.read(image) for image in IMAGES])
        return feed(subject.runner.inputs[0], pixels)


def assert_same_classes(path: Path, inputs: np.ndarray, outputs: np.ndarray, least_db: float) -> None:
    reference = run(path, inputs)
    assert outputs.shape == reference.shape
    assert outputs.argmax(axis=1).tolist() == reference.argmax(axis=1).tolist()
    assert len(set(outputs.argmax(axis=1))) == 10
    assert snr_db(reference, outputs) > least_db


@pytest.fixture(scope="module")
def files(exported_digits) -> dict[str, Path]:
    """The file of each case."""
    return {name: exported_digits("onnx", **case.options) for name, case in CASES.items()}


NODE_RUNS = """
import * as ort from "onnxruntime-web";
import { readFileSync, writeFileSync } from "node:fs";

ort.env.wasm.numThreads = 1;
const arrays = { float32: Float32Array, uint8: Uint8Array };
for (const { file, values, dtype, shape, outputs } of JSON.parse(readFileSync("runs.json", "utf8"))) {
  const session = await ort.InferenceSession.create(readFileSync(file), { executionProviders: ["wasm"] });
  const all = new arrays[dtype](new Uint8Array(readFileSync(values)).buffer);
  const size = shape.reduce((product, length) => product * length, 1);
  const rows = [];
  for (let start = 0; start < all.length; start += size) {
    const input = new ort.Tensor(dtype, all.slice(start, start + size), shape);
    rows.push(Array.from((await session.run({ input })).output.data));
  }
  writeFileSync(outputs, JSON.stringify(rows));
}
"""
"""Runs files for the rows of their inputs, one after another in one process of Node."""


@pytest.fixture(scope="module")
def web_outputs(files, shared) -> dict[str, np.ndarray]:
    """What onnxruntime-web returns for the images, by case."""
    packages = node.install(shared, "onnxruntime-web")

    def fill(folder: Path) -> None:
        runs = []
        for name, path in files.items():
            inputs = read(path)
            inputs.tofile(folder / f"{name}.bin")
            shape = [1, *inputs.shape[1:]]
            runs.append(
                {"file": str(path), "values": f"{name}.bin", "outputs": f"{name}.json"}
                | {"dtype": str(inputs.dtype), "shape": shape}
            )
        (folder / "node_modules").symlink_to(packages)
        (folder / "runs.json").write_text(json.dumps(runs))
        (folder / "run.mjs").write_text(NODE_RUNS)
        done = subprocess.run(["node", "run.mjs"], cwd=folder, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    folder = shared("web-outputs", fill)
    return {name: np.array(json.loads((folder / f"{name}.json").read_text()), np.float32) for name in files}


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_web_gives_the_same_classes(name, files, web_outputs):
    path = files[name]
    assert_same_classes(path, read(path), web_outputs[name], CASES[name].least_db)


@pytest.fixture(scope="module")
def compiled():
    """Compile a file in OpenVINO for the CPU, with floats of 32 bits, which are 16 on some CPUs by default."""
    openvino = pytest.importorskip("openvino", exc_type=ImportError)

    def make(path: Path):
        return openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    return make


def integer_layers(compiled_model) -> int:
    """The number of convolutions and matrix products that OpenVINO computes in integers."""
    facts = [operation.get_rt_info() for operation in compiled_model.get_runtime_model().get_ops()]
    return sum(
        fact["layerType"].value in ("Convolution", "FullyConnected", "MatMul")
        and fact["runtimePrecision"].value in ("u8", "i8")
        for fact in facts
    )


def chosen_layers(path: Path) -> int:
    """The number of layers in integers, by the file's metadata."""
    with open_subject(path) as subject:
        return subject.metadata.format["quantization_plan"]["layers"]["integer"]


@pytest.mark.parametrize("name", CASES)
def test_openvino_gives_the_same_classes(name, files, compiled):
    path = files[name]
    model = compiled(path)
    inputs = read(path)
    outputs = np.concatenate([model(row[None])[0] for row in inputs])
    assert_same_classes(path, inputs, outputs, CASES[name].least_db)
    if "mode" in CASES[name].options:
        assert integer_layers(model) >= chosen_layers(path) > 0


@pytest.mark.parametrize("name", MODELS)
def test_openvino_computes_the_layers_of_other_models_in_integers(name, export, compiled, tmp_path):
    result = export(
        "onnx",
        awakened_model(name, **MODELS[name]),
        tmp_path / "a.onnx",
        input_size=(3, 96, 96) if name.startswith("mobilenet") else None,
        reduce_range=True,
        calibration_samples=32,
        verify=False,
        **INTEGERS,
    )
    model = compiled(result.path)
    assert integer_layers(model) >= chosen_layers(result.path) > 0
    inputs = read(result.path)
    outputs = np.concatenate([model(row[None])[0] for row in inputs])
    assert snr_db(run(result.path, inputs), outputs) > 25
