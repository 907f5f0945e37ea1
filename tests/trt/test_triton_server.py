"""NVIDIA's Triton server takes the repository of docs/deploy/triton.md, and its client gets the file's answers.

The server is that of nvidia-pytriton, which has no backend for ONNX Runtime: a Python model runs the file instead. So
the configuration, the labels and the client are tested, without a GPU.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from conftest import DIGITS
from documents import DOCS, read_blocks
from pages import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

MODEL = """
import os
import sys

sys.path.insert(0, {packages!r})

import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path)

    def execute(self, requests):
        images = [triton.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        answers = [self.session.run(["output"], {{"input": x}})[0] for x in images]
        return [triton.InferenceResponse([triton.Tensor("output", y)]) for y in answers]
"""


@pytest.fixture(scope="module")
def packages(process, tmp_path_factory) -> Path:
    """A folder with nvidia-pytriton, which contains the server, and Triton's client: 400 MB."""
    folder = tmp_path_factory.mktemp("pytriton")
    names = ["nvidia-pytriton>=0.7,<0.8", "tritonclient[http]>=2.50,<3", "onnxruntime", "pillow"]
    done = process(["uv", "pip", "install", "--target", str(folder), *names])
    if done.returncode:
        pytest.skip(f"Triton cannot be installed here: {done.stderr.strip()[-200:]}")
    return folder


@contextmanager
def server(packages: Path, repository: Path, backends: Path, port: int) -> Iterator[None]:
    """Triton with a repository, once it takes requests."""
    triton = packages / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for source in (triton / "backends" / "python", triton / "python_backend_stubs" / version):
        for path in source.iterdir():
            (backends / "python").mkdir(parents=True, exist_ok=True)
            (backends / "python" / path.name).symlink_to(path)
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    command = [triton / "bin" / "tritonserver", f"--model-repository={repository}"]
    command += [f"--backend-directory={backends}", f"--http-port={port}", "--http-address=127.0.0.1"]
    command += ["--allow-grpc=false", "--allow-metrics=false"]
    with subprocess.Popen(
        command,
        env=os.environ | {"LD_LIBRARY_PATH": libraries, "PYTHONPATH": str(packages)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert running.poll() is None, running.stdout.read()
                time.sleep(0.5)
            yield
        finally:
            running.terminate()


def test_triton_serves_the_repository_of_the_guide(process, export, digits, packages, tmp_path):
    blocks = read_blocks((DOCS / "deploy" / "triton.md").read_text("utf-8"))
    files = {block.file: block.text for block in blocks if block.file}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = tmp_path / "models" / "my-model"
    (model / "1").mkdir(parents=True)
    export("onnx", digits, model / "1" / "model.onnx", dynamic_batch=True, softmax=True)
    (model / "1" / "model.py").write_text(MODEL.format(packages=str(packages)))
    (model / "labels.txt").write_text("\n".join("0123456789"))
    config = files["models/my-model/config.pbtxt"]
    (model / "config.pbtxt").write_text(config.replace('"onnxruntime"', '"python"'))
    (tmp_path / "client.py").write_text(files["client.py"].replace("localhost:8000", f"127.0.0.1:{port}"))
    images = [str(path) for path in sorted((DIGITS / "samples" / "3").iterdir())[:3]]
    with server(packages, tmp_path / "models", tmp_path / "backends", port):
        done = process(
            [sys.executable, "client.py", *images],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(packages)},
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    lines = run(f"timmx predict {model / '1' / 'model.onnx'} {' '.join(images)} --top-k 1 --csv", tmp_path)
    expected = [line.split(",") for line in lines.splitlines()[1:]]
    for shown, row in zip(done.stdout.splitlines(), expected, strict=True):
        path, label, probability = shown.split()
        assert (path, label) == (row[0], row[3])
        assert float(probability) == pytest.approx(float(row[4]), abs=1e-4)
