"""Pipes, sockets, devices and giants in place of files: they are not opened or read, and nothing waits for them."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from timmx.artifact.opening import backend_of
from timmx.artifact.records import MANIFEST_NAME, digest, read_record
from timmx.base.files import require_artifact, require_file, sha256, walk
from timmx.base.reading import NotRegularFile, open_file, read_file
from timmx.errors import ArtifactError, ConfigurationError, TimmxError
from timmx.exporting.recipe import read_recipe
from timmx.exporting.several import _read_manifest
from timmx.inputs.calibration import ImageCalibration, check_calibration
from timmx.inputs.images import check_image, list_images
from timmx.inputs.preprocess import ImagePreprocessor
from timmx.inputs.samples import choose_samples
from timmx.model.checkpoint import check_checkpoint, read_checkpoint
from timmx.model.data_config import DataConfig
from timmx.model.folder import read_local_config
from timmx.model.labels import read_labels
from timmx.tools.eval import dataset
from timmx.tools.eval.dataset import Dataset, LabelledImage, read_dataset
from timmx.tools.eval.journal import Journal
from timmx.tools.predict.prediction import find_images
from timmx.tools.subject.stream import answers

CONFIG = DataConfig(
    input_size=(3, 32, 32),
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    interpolation="bicubic",
    crop_pct=1.0,
    crop_mode="center",
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


@pytest.fixture(autouse=True)
def _no_hang(request):
    """A wait that nothing ends fails the test."""
    if "process" in request.fixturenames:
        yield
        return

    def fail(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def local_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most 108 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def journal(path: Path) -> None:
    images = Dataset(origin=path, images=(LabelledImage(path, "image", (0,)),), classes=("a",), total=1)
    Journal(path, {"name": "m"}, images).__exit__()


def calibration(path: Path) -> None:
    check_calibration(path, None, random=False)


def csv_file(path: Path) -> None:
    read_dataset(path, "m.onnx", ("a", "b"), 2)


def class_map(path: Path) -> None:
    folder = path.parent / "data" / "a"
    folder.mkdir(parents=True)
    (folder / "image.png").touch()
    read_dataset(folder.parent, "m.onnx", None, 2, path)


def onnx_file(path: Path) -> None:
    from timmx_onnx.proto import read_proto

    read_proto(path)


def sidecar(path: Path) -> None:
    from timmx_tensorrt.sidecar import read

    path.with_name("m.engine").touch()
    read(path.with_name("m.engine"))


def manifest_of_package(path: Path) -> None:
    from timmx_coreml.package import read

    read(path.parent)


def core_ml(path: Path) -> None:
    from timmx_coreml.package import read

    read(path)


def litert(path: Path) -> None:
    from timmx_litert.model_file import check

    check(path)


def torch_export(path: Path) -> None:
    from timmx_torch_export.archive import read_metadata

    read_metadata(path)


def local_config(path: Path) -> None:
    read_local_config(path.parent)


READERS = {
    "labels.txt": read_labels,
    "recipe.toml": read_recipe,
    "config.json": local_config,
    "weights.safetensors": read_checkpoint,
    "weights.pt": read_checkpoint,
    "weights.bin": check_checkpoint,
    "calibration.pt": calibration,
    "data.csv": csv_file,
    "classes.txt": class_map,
    "journal.jsonl": journal,
    MANIFEST_NAME: _read_manifest,
    "image.png": check_image,
    "image.jpg": ImagePreprocessor(CONFIG, in_graph=False, color_order="RGB").read,
    "m.onnx": onnx_file,
    "m.engine.json": sidecar,
    "Manifest.json": manifest_of_package,
    "m.mlmodel": core_ml,
    "m.tflite": litert,
    "m.pt2": torch_export,
}


@pytest.mark.parametrize("make", [pipe, local_socket, device])
@pytest.mark.parametrize("name", READERS)
def test_what_is_not_a_file_is_refused(tmp_path, name, make):
    path = tmp_path / name
    make(path)
    with pytest.raises(TimmxError) as error:
        READERS[name](path)
    if name != MANIFEST_NAME:
        expected = {pipe: "a pipe", local_socket: "a socket", device: "a device"}[make]
        if (name, make) == ("Manifest.json", device):  # made as a link
            expected = "a link to a file outside the package"
        assert expected in error.value.message


GIANTS = {
    name: reader
    for name, reader in READERS.items()
    if name not in ("weights.bin", "calibration.pt", "m.tflite")
}


@pytest.mark.parametrize("name", GIANTS)
def test_a_sparse_giant_is_not_read(tmp_path, name):
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(2**43)
    start = time.process_time()
    with pytest.raises(TimmxError) as error:
        READERS[name](path)
    assert time.process_time() - start < 2
    if name not in (MANIFEST_NAME, "m.pt2"):
        assert "8,796 GB" in error.value.message


def test_a_pipe_that_replaces_a_file_is_not_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    before = path.stat()
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(Path, "stat", lambda self, **options: before)
    with pytest.raises(NotRegularFile, match="it is a pipe, not a file"):
        open_file(path)


def test_files_and_links_to_files_are_read_up_to_their_limit(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"12345")
    link.symlink_to(path)
    assert read_file(link, 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 B, and at most 4 B are read"):
        read_file(path, 4)
    assert read_file(Path("/proc/self/stat"), 10_000).startswith(str(os.getpid()).encode())
    with pytest.raises(OSError, match="and at most 10 B are read"):
        read_file(Path("/proc/self/stat"), 10)
    with pytest.raises(NotRegularFile, match="it is a link"):
        open_file(link, follow_links=False)
    with pytest.raises(IsADirectoryError):
        open_file(tmp_path)
    assert Path(os.devnull).is_char_device()


def test_an_artifact_is_a_file_or_a_folder_of_files(tmp_path):
    package = tmp_path / "m.mlpackage"
    (package / "Data").mkdir(parents=True)
    require_artifact(package)
    (package / "dangling").symlink_to("nothing")
    require_artifact(package)
    os.mkfifo(package / "Data" / "weight.bin")
    with pytest.raises(ArtifactError, match=r"weight\.bin is a pipe, not a file"):
        backend_of(package)
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match=r"m\.onnx is a pipe, not a file"):
        backend_of(tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match=r"m\.onnx is a pipe, and an engine is a file"):
        require_file(tmp_path / "m.onnx", "an engine")
    with pytest.raises(ArtifactError, match="is not a file"):
        sha256(tmp_path / "m.onnx")
    assert read_record(tmp_path / "m.onnx") == {}


@pytest.mark.parametrize("location", ["weights", "sub/weights", "/dev/zero"])
def test_external_weights_that_are_a_pipe_or_a_device_are_refused(tmp_path, location):
    import onnx
    from timmx_onnx.proto import read_metadata
    from timmx_onnx.runner import OnnxRunner

    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    value = onnx.helper.make_tensor_value_info("y", 1, [4])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [], [value], [tensor]
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    if not location.startswith("/"):
        (tmp_path / location).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / location)
    for read in (read_metadata, OnnxRunner):
        with pytest.raises(ArtifactError, match=r"not a file"):
            read(path)


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", bytes(50_000_000))
    with pytest.raises(TimmxError, match=r"its member 'weights/data\.pkl' is compressed"):
        read_checkpoint(path)


def test_members_of_a_checkpoint_that_overlap_are_refused(tmp_path):
    """One megabyte, named a thousand times, is a gigabyte for a reader that trusts the directory."""
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data/0", bytes(1_000_000))
        first = archive.infolist()[0]
        for number in range(1, 1000):
            info = zipfile.ZipInfo(f"weights/data/{number}")
            info.header_offset, info.file_size, info.compress_size = 0, first.file_size, first.compress_size
            info.CRC = first.CRC
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info
    with pytest.raises(TimmxError, match="its members overlap"):
        read_checkpoint(path)


def test_a_safetensors_file_that_declares_more_than_it_has_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    header = b'{"w":{"dtype":"F32","shape":[250000000000],"data_offsets":[0,1000000000000]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(TimmxError, match="is damaged or not a safetensors file"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("_LONGEST_LINE", 15, "line 3 has more than 15 characters"),
        ("_MOST_LINES", 2, "it has more than 2 lines"),
        ("_LARGEST_CSV", 30, "it has 39 B, and at most 30 B are read"),
    ],
)
def test_the_lines_of_a_csv_are_limited(tmp_path, monkeypatch, limit, value, reason):
    path = tmp_path / "data.csv"
    path.write_text("path,label\na.png,a\nsome/longer/b.png,b\n"[:39])
    monkeypatch.setattr(dataset, limit, value)
    with pytest.raises(TimmxError, match=reason):
        read_dataset(path, "m.onnx", ("a", "b"), 2)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Eight images, and a pipe with the name of an image."""
    images = tmp_path / "images" / "a"
    images.mkdir(parents=True)
    for number in range(8):
        Image.effect_noise((40, 40), 50).save(images / f"{number}.png")
    os.mkfifo(images / "pipe.png")
    return images


class Warnings:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def __getattr__(self, name: str):
        return lambda *arguments, **options: self.texts.append(arguments[0]) if name == "warn" else None


@pytest.fixture
def warnings():
    from timmx.base.progress import reporting

    collected = Warnings()
    with reporting(collected):
        yield collected.texts


def subject(**changes) -> SimpleNamespace:
    values = {
        "batch_size": 2,
        "preprocessor": ImagePreprocessor(CONFIG, in_graph=False, color_order="RGB"),
        "require_classes": lambda: None,
        "probabilities": lambda inputs: np.zeros((len(inputs), 2), np.float32),
    }
    return SimpleNamespace(**values | changes)


def test_predict_and_eval_report_a_pipe_among_the_images(folder):
    rows = read_dataset(folder.parent, "m.onnx", ("a", "b"), 2).images
    assert [row.path for row in rows] == find_images([str(folder)])
    found = list(answers(subject(), [row.path for row in rows], workers=2))
    assert [answer.probabilities is None for answer in found] == 8 * [False] + [True]
    assert found[-1].error.endswith("pipe.png cannot be read as an image: it is a pipe, not a file")


def test_a_pipe_that_a_csv_names_is_an_unreadable_image(folder):
    path = folder.parent / "data.csv"
    path.write_text("path,label\na/0.png,a\na/pipe.png,a\n")
    rows = read_dataset(path, "m.onnx", ("a", "b"), 2).images
    assert [not answer.error for answer in answers(subject(), [row.path for row in rows])] == [True, False]


def test_calibration_and_verification_leave_a_pipe_out(folder, warnings):
    assert len(ImageCalibration(folder, 9, CONFIG, in_graph=False)) == 8
    assert len(choose_samples(folder, None, CONFIG, in_graph=False)) == 8
    assert warnings == 2 * ["1 image cannot be read and is left out: pipe.png."]


def test_ctrl_c_does_not_wait_for_images_that_are_being_decoded(folder):
    started, hold = threading.Event(), threading.Event()

    def read(path: Path) -> np.ndarray:
        started.set()
        hold.wait()
        return np.zeros((3, 32, 32), np.float32)

    depth = SimpleNamespace(warning=lambda: "")
    slow = subject(preprocessor=SimpleNamespace(read=read, check=lambda: None, depth=depth))

    def press() -> None:
        started.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = time.monotonic()
    threading.Thread(target=press).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(answers(slow, sorted(folder.iterdir()), workers=3))
        assert time.monotonic() - before < 3, "closing waits half a second"
    finally:
        hold.set()


_WAITING = """
import sys, threading, types
from pathlib import Path
if sys.argv[1] == "predict":
    import timmx.tools.subject.stream as stream
    def read(subject, path):
        Path("waiting").touch()
        threading.Event().wait()
    stream._read = read
else:
    import timmx.registry.probe as probe
    probe.sys = types.SimpleNamespace(executable=sys.argv.pop())
from timmx.cli.application import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_predict_while_threads_decode(process, exported_digits, tmp_path, folder, number):
    end_by(number, tmp_path, "predict", str(exported_digits("onnx")), str(folder))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_doctor_while_processes_load_backends(process, tmp_path, number):
    sleeping = tmp_path / "python"
    sleeping.write_text("#!/bin/sh\necho waiting > waiting\nexec sleep 60\n")
    sleeping.chmod(0o755)
    end_by(number, tmp_path, "doctor", str(sleeping))


def end_by(number: signal.Signals, folder: Path, *arguments: str) -> None:
    """Send a signal to a command that waits, and check that it ends at once, with the signal's exit code."""
    log = folder / "log"
    with log.open("w") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-c", _WAITING, *arguments],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not (folder / "waiting").exists():
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        time.sleep(0.2)
        before = time.monotonic()
        child.send_signal(number)
        assert child.wait(30) == (130 if number == signal.SIGINT else 143)
        assert time.monotonic() - before < 3, "a second, on a machine that is busy with other tests"
    finally:
        child.kill()
        child.wait()


def test_folders_that_are_nested_too_deeply_are_reported(tmp_path, nest, run_timmx):
    package = nest(tmp_path / "m.mlpackage")
    for arguments in (["inspect", package], ["predict", package, package]):
        result = run_timmx(*arguments)
        assert result.exit_code == 2
        assert "nested more than 100 levels deep" in result.stderr
    for walking in (list_images, lambda folder: digest([folder])):
        with pytest.raises(ArtifactError, match="nested more than 100 levels deep"):
            walking(package)
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        find_images([f"{package}/**/*.png"])


def test_walk_finds_everything_and_follows_no_links(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert sorted(walk(tmp_path)) == sorted(tmp_path.rglob("*"))
    assert list(walk(tmp_path / "missing")) == []
