"""`timmx inspect` shows what a file contains and how to feed it, and what is unknown if timmx did not write it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import forks
import platformdirs
import pytest
from plugins import install_plugin, installed, on_path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "examples" / "digits" / "samples"
FILES = ("onnx", "torch-export", "coreml", "litert")


@pytest.fixture(scope="module")
def files(exported_digits) -> dict[str, Path]:
    """The digits model in each format, by backend."""
    return {backend: exported_digits(backend) for backend in FILES}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache folder for verification results, empty at first."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def inspected(run_timmx, cache, monkeypatch):
    """What `timmx inspect FILE --json` prints."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: cache)

    def run(path: Path) -> dict:
        done = run_timmx("inspect", path, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("backend", FILES)
def test_each_format_reports_the_same_model(backend: str, files, digits, inspected, run_timmx):
    assert run_timmx("verify", files[backend], "--against", digits).exit_code == 0
    found = inspected(files[backend])
    assert found["backend"] == backend
    size = {"name": "input", "shape": [1, 3, 64, 64], "dtype": "float32", "layout": "NCHW"}
    assert found["inputs"] == [size]
    output = {"name": "output", "shape": [1, 10], "dtype": "float32", "kind": "logits"}
    assert found["outputs"] == [output | {"activation": "none", "exclusive": True}]
    assert found["labels"] == [str(digit) for digit in range(10)]
    assert found["model"]["license"] == "apache-2.0"
    assert sum(found["operations"].values()) > 30
    assert found["parameters"] == pytest.approx(100500, rel=0.001)
    assert found["recipe"][0] == "resize the shorter side to 64 (bicubic)"
    assert "minus mean 0.309, divided by std 0.349" in found["recipe"][-1]
    assert found["verification"]["verification"]["status"] == "verified"
    paths = [item for item in files[backend].rglob("*") if item.is_file()] or [files[backend]]
    assert found["size_bytes"] == sum(item.stat().st_size for item in paths)
    text = run_timmx("inspect", files[backend]).stdout
    assert re.search(r"verification +verified: [\d.]+ dB", text)
    assert "license apache-2.0" in text


def test_torch_is_not_imported(process, files):
    code = """if True:
        import sys
        from timmx.cli import main

        HEAVY = {"torch", "torchvision", "timm", "coremltools", "onnxruntime"}
        for path in sys.argv[1:]:
            sys.argv[1:] = ["inspect", path]
            try:
                main()
            except SystemExit as end:
                assert not end.code, path
            assert "typer" in sys.modules
            assert not HEAVY & set(sys.modules), path
    """
    done = process([sys.executable, "-c", code, *map(str, files.values())])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("license apache-2.0") == len(files)


@pytest.fixture(scope="module")
def bytes_file(exported_digits) -> Path:
    """The digits model in LiteRT with the bytes of an image as input; not verified with the cache of these tests."""
    options = {"mode": "int8", "io": "uint8", "normalize": True, "calibration_data": SAMPLES}
    return exported_digits("litert", **options)


def test_byte_and_integer_inputs_and_outputs_are_shown(bytes_file, inspected):
    found = inspected(bytes_file)
    (entry,), (output,) = found["inputs"], found["outputs"]
    assert (entry["dtype"], entry["layout"], entry["shape"]) == ("uint8", "NHWC", [1, 64, 64, 3])
    assert "quantization" in output
    assert found["precision"] == "int8"
    assert "0 to 255" in found["recipe"][-1]
    assert found["verification"] is None


def test_a_missing_verification_names_the_command(files, tmp_path, run_timmx, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: tmp_path / "empty")
    text = run_timmx("inspect", files["onnx"]).stdout
    assert f"not recorded here; run timmx verify {files['onnx']}" in " ".join(text.split())


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, files) -> dict[str, Path]:
    """Files without metadata of timmx."""
    import onnx
    import torch

    folder = tmp_path_factory.mktemp("foreign")
    made = {backend: folder / path.name for backend, path in files.items()}
    proto = onnx.load(files["onnx"])
    del proto.metadata_props[:]
    onnx.save(proto, made["onnx"])
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    torch.export.save(torch.export.export(model, (torch.rand(2, 3, 8, 8),)), made["torch-export"])
    made["litert"].write_bytes(files["litert"].read_bytes().replace(b"timmx", b"other"))
    shutil.copytree(files["coreml"], made["coreml"])
    inner = made["coreml"] / "Data" / "com.apple.CoreML" / "model.mlmodel"
    inner.write_bytes(inner.read_bytes().replace(b"timmx", b"other"))
    return made


@pytest.mark.parametrize("backend", FILES)
def test_a_foreign_file_shows_its_inputs_and_outputs_and_unknown_preprocessing(
    backend: str, foreign, inspected, run_timmx
):
    found = inspected(foreign[backend])
    assert not found["written_by_timmx"]
    (entry,), (output,) = found["inputs"], found["outputs"]
    if backend == "torch-export":
        assert (entry["shape"], output["shape"]) == ([2, 3, 8, 8], [2, 144])
        assert found["parameters"] == 4 * 3 * 9 + 4
    else:
        assert (entry["shape"], output["shape"]) == ([1, 3, 64, 64], [1, 10])
    assert entry["dtype"] == "float32"
    assert found["operations"]
    assert found["recipe"] == []
    assert "unknown: timmx did not write this file" in run_timmx("inspect", foreign[backend]).stdout


def refused(run_timmx, path: Path) -> str:
    done = run_timmx("inspect", path)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert all(line.startswith("hint: ") for line in done.stderr.splitlines()[1:])
    return done.stderr


def test_a_file_of_another_format_is_one_clear_error(files, run_timmx, tmp_path):
    for suffix, said in (
        (".pt2", "not a .pt2"),
        (".tflite", "not a LiteRT"),
        (".mlmodel", "not a Core ML"),
        (".mlpackage", "no"),
    ):
        other = tmp_path / f"a{suffix}"
        shutil.copy(files["onnx"], other)
        assert said in refused(run_timmx, other)
    other = tmp_path / "a.onnx"
    shutil.copy(files["torch-export"], other)
    assert "not an ONNX file" in refused(run_timmx, other)
    shutil.copy(files["onnx"], tmp_path / "a.xyz")
    assert "no installed backend opens .xyz" in refused(run_timmx, tmp_path / "a.xyz")
    assert "missing.onnx" in refused(run_timmx, tmp_path / "missing.onnx")
    shutil.copy(files["onnx"], tmp_path / "B.ONNX")
    assert "rename it to B.onnx" in refused(run_timmx, tmp_path / "B.ONNX")
    for suffix in (".tflite", ".engine"):
        (tmp_path / f"folder{suffix}").mkdir()
        assert "is a folder" in refused(run_timmx, tmp_path / f"folder{suffix}")
    for content, said in ((b"", "it is empty"), (b"<html>404</html>", "it is a text file")):
        (tmp_path / "a.engine").write_bytes(content)
        assert f"not a TensorRT engine: {said}" in refused(run_timmx, tmp_path / "a.engine")
    for backend, said in (
        ("onnx", "an ONNX model"),
        ("litert", "a LiteRT model"),
        ("torch-export", "a zip archive"),
    ):
        shutil.copy(files[backend], tmp_path / "a.engine")
        assert f"not a TensorRT engine: it is {said}" in refused(run_timmx, tmp_path / "a.engine")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file has such a name")
def test_a_path_that_is_not_utf8_is_refused_with_the_fix(files, digits, run_timmx, tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    for backend, path in files.items():
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, folder / path.name)
        for command in ("inspect", "bench", "verify"):
            done = run_timmx(command, folder / path.name)
            assert done.exit_code == 2
            assert "\\xff" in done.stderr
            assert "is not UTF-8, and runtimes cannot open it\nhint: rename it" in done.stderr
        done = run_timmx(backend, digits, "-o", folder / path.name)
        assert done.exit_code == 2
        assert (
            "is not UTF-8, and runtimes cannot open such a path\nhint: choose another --output" in done.stderr
        )


def test_a_possible_engine_is_shown_as_unconfirmed(run_timmx, tmp_path):
    (tmp_path / "a.engine").write_bytes(bytes(range(256)) * 100)
    done = run_timmx("inspect", "a.engine")
    assert done.exit_code == 0
    assert "only TensorRT can check whether it is an engine" in done.stdout


@pytest.mark.parametrize(("length", "said"), [(None, "are missing"), (1000, "the file has 1000 bytes")])
def test_a_core_ml_package_with_truncated_weights_is_refused(length, said, files, run_timmx, tmp_path):
    shutil.copytree(files["coreml"], tmp_path / "a.mlpackage")
    (weights,) = (tmp_path / "a.mlpackage").rglob("weight.bin")
    weights.unlink() if length is None else os.truncate(weights, length)
    assert said in refused(run_timmx, tmp_path / "a.mlpackage")


def test_an_unusable_backend_says_why(files, run_timmx, tmp_path, monkeypatch):
    monkeypatch.setenv("TIMMX_DISABLE_BACKENDS", "litert")
    with installed(tmp_path):
        done = run_timmx("inspect", files["litert"])
    assert done.exit_code == 2
    assert "backend litert (timmx-litert" in done.stderr
    assert "is disabled: TIMMX_DISABLE_BACKENDS names it" in done.stderr


def test_damaged_and_newer_metadata_are_reported(files, run_timmx, tmp_path):
    import onnx

    for change, said in (
        (lambda facts: facts | {"schema": 99}, "metadata of schema 99"),
        (
            lambda facts: facts | {"input": {"name": "input"}},
            "is damaged: its metadata is not what timmx writes",
        ),
        (lambda facts: facts | {"model": None}, "is damaged: its metadata is not what timmx writes"),
        (lambda facts: [], "is damaged"),
    ):
        proto = onnx.load(files["onnx"])
        (entry,) = (entry for entry in proto.metadata_props if entry.key == "timmx")
        entry.value = json.dumps(change(json.loads(entry.value)))
        onnx.save(proto, tmp_path / "changed.onnx")
        assert said in refused(run_timmx, tmp_path / "changed.onnx")


def test_a_third_party_format_is_inspected(process, export, digits, run_timmx, tmp_path, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    site = tmp_path / "site"
    install_plugin(
        site,
        "loopback",
        (ROOT / "tests" / "kit" / "loopback.py").read_text("utf-8"),
        target="timmx_loopback:Loopback",
    )

    def run(*arguments: object) -> str:
        with installed(site):
            done = run_timmx(*arguments)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    run("loopback", digits, "-o", "a.loop", "--quantized")
    found = json.loads(run("inspect", "a.loop", "--json"))
    assert found["inputs"][0]["layout"] == "NHWC"
    assert found["inputs"][0]["quantization"]["scale"] > 0
    assert found["verification"]["verification"]["status"] == "verified"
    run("verify", "a.loop", "--against", digits)
    assert run("inspect", "a.loop", "--snippet", "python").startswith(
        "# uv pip install numpy pillow timmx-core timmx-loopback\n"
    )
    image = next(iter(sorted((SAMPLES / "5").glob("*.png"))))
    (tmp_path / "snippet.py").write_text(run("inspect", "a.loop", "--snippet", "python"))
    code = "import runpy; runpy.run_path('snippet.py', run_name='__main__')"
    done = forks.run(
        [sys.executable, "-c", code, str(image)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": on_path(site)}
    )
    assert done.returncode == 0, done.stderr
    label, probability = done.stdout.split()
    (row,) = json.loads(run("predict", "a.loop", image, "--json"))["images"]
    assert row["predictions"][0]["label"] == label == "5"
    assert row["predictions"][0]["probability"] == pytest.approx(float(probability), abs=1e-5)
