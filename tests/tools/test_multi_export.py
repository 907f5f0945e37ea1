"""`timmx export`: several formats from one load, each the same as from its own command."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import forks
import pytest
import timmx
from plugins import install_plugin, installed
from timmx.artifact.records import digest, recall
from timmx.contract import ExportRequest
from timmx.errors import ConfigurationError, TimmxError
from timmx.exporting.job import Job
from timmx.exporting.session import ModelSession
from timmx.exporting.several import export_many, plan_exports
from timmx.registry import load

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2", "coreml": ".mlpackage", "litert": ".tflite"}


def contents(path: Path) -> dict[str, str]:
    """Every file of an artifact, by name, with its hash."""
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    return {
        str(file.relative_to(path.parent)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


@pytest.fixture(scope="module")
def singles(exported_digits) -> dict[str, Path]:
    """Each format, exported by its own command."""
    return {name: exported_digits(name) for name in FORMATS}


@pytest.fixture(scope="module")
def four(export, digits: str, tmp_path_factory: pytest.TempPathFactory):
    """All four formats, exported by one command."""
    folder = tmp_path_factory.mktemp("four")
    return timmx.export_many(digits, list(FORMATS), folder)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_equals_that_of_the_single_command(name, singles, four):
    assert contents(four.folder / f"digits{FORMATS[name]}") == contents(singles[name])


def test_the_order_of_targets_does_not_matter(digits, singles, tmp_path):
    backwards = export_many(digits, [*reversed(FORMATS)], tmp_path)
    assert not backwards.failures
    for name, suffix in FORMATS.items():
        assert contents(tmp_path / f"digits{suffix}") == contents(singles[name])


def test_the_model_is_loaded_and_traced_once(four):
    shared = {"loading", "running the reference", "preparing"}
    assert shared <= four.seconds.keys()
    captured = ["capturing" in result.seconds for result in four.results]
    assert captured.count(True) == 1
    assert not any(shared & result.seconds.keys() for result in four.results)


def test_a_shared_value_is_made_once_for_each_backend_key_and_batch_size(export, digits):
    session = ModelSession(ExportRequest(model=digits, verify=False))
    made = []

    def value(backend, key, **options):
        job = Job(session.with_batch(replace(session.request, **options)), Path("out"), load(backend))
        return job.shared(key, lambda: made.append((backend, key)) or object())

    first = value("onnx", "float")
    assert value("onnx", "float", batch_size=1) is first
    others = [
        value("onnx", "integer"),
        value("litert", "float"),
        value("onnx", "float", batch_size=2),
        value("onnx", "float", dynamic_batch=True),
    ]
    assert len({first, *others}) == len(made) == 5


def test_the_manifest_records_the_artifacts(four):
    written = json.loads((four.folder / "timmx.json").read_text())
    assert written["schema"] == 1
    assert set(written["artifacts"]) == {f"digits{suffix}" for suffix in FORMATS.values()}
    entry = written["artifacts"]["digits.onnx"]
    file = four.folder / "digits.onnx"
    assert entry["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest() == digest([file])
    assert entry["size_bytes"] == file.stat().st_size
    assert entry["backend"] == "onnx"
    assert entry["verification"]["status"] == "verified"
    known = recall(file, [file])
    assert known is not None
    assert known["source"].endswith("timmx.json")
    assert [path.name for path in four.folder.iterdir() if path.name.startswith(".")] == []


def test_a_later_run_adds_to_the_manifest_and_removes_missing_files(export, run_timmx, digits, tmp_path):
    first, second = "torch-export", "torch-export:output=a.pt2"
    assert run_timmx("export", digits, "--to", first, "--no-verify", "-o", "out").exit_code == 0
    assert run_timmx("export", digits, "--to", second, "--no-verify", "-o", "out").exit_code == 0
    names = json.loads((tmp_path / "out" / "timmx.json").read_text())["artifacts"]
    assert list(names) == ["a.pt2", "digits.pt2"]
    (tmp_path / "out" / "digits.pt2").unlink()
    assert run_timmx("export", digits, "--to", second, "--no-verify", "-o", "out").exit_code == 0
    assert list(json.loads((tmp_path / "out" / "timmx.json").read_text())["artifacts"]) == ["a.pt2"]


def test_a_foreign_timmx_json_is_refused_before_the_export(run_timmx, digits, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "timmx.json").write_text('{"mine": true}')
    done = run_timmx("export", digits, "--to", "onnx", "-o", "out")
    assert done.exit_code == 2
    assert "is not a record that timmx export wrote" in done.stderr
    assert "hint: move it" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["timmx.json"]


def test_targets_of_one_format_have_their_own_options_and_names(export, run_timmx, digits, tmp_path):
    done = run_timmx(
        "export", digits, "--to", "onnx", "--to", "onnx:mode=fp16,dynamic-batch", "--to", "onnx:opset=18,mode=fp16",
        "--to", "torch-export:dynamic_batch=true,output=open.pt2", "--no-verify", "-o", "out", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    made = {Path(item["path"]).name: item["metadata"] for item in json.loads(done.stdout)["artifacts"]}
    assert made.keys() == {"digits.onnx", "digits-fp16-dynamic-batch.onnx", "digits-fp16.onnx", "open.pt2"}
    assert [made[name]["precision"] for name in sorted(made)] == ["fp16", "fp16", "fp32", "fp32"]
    assert made["digits-fp16-dynamic-batch.onnx"]["batch"] == made["open.pt2"]["batch"] == {"dynamic": True}
    assert made["digits-fp16.onnx"]["format"]["opset"] == 18
    assert made["digits.onnx"]["batch"] == {"size": 1}


def test_a_failed_target_does_not_stop_the_others(export, run_timmx, digits, tmp_path):
    old = tmp_path / "out" / "digits.onnx"
    old.parent.mkdir()
    old.write_bytes(b"old")
    done = run_timmx(
        "export", digits, "--to", "onnx:mode=fp16,min_snr=300", "--to", "torch-export:output=a.pt2", "--to",
        "torch-export", "-o", "out", "--json",
    )  # fmt: skip
    assert done.exit_code == 2
    assert "error: digits.onnx (onnx): verification failed, and nothing was published" in done.stderr
    result = json.loads(done.stdout)
    assert [Path(item["path"]).name for item in result["artifacts"]] == ["a.pt2", "digits.pt2"]
    (failed,) = result["failed"]
    assert failed["name"] == "digits.onnx"
    assert failed["error"]["verification"]["status"] == "failed"
    assert old.read_bytes() == b"old"
    assert "digits.onnx" not in json.loads((tmp_path / "out" / "timmx.json").read_text())["artifacts"]


def test_the_table_shows_full_file_names(export, run_timmx, digits):
    done = run_timmx(
        "export", digits, "--to", "torch-export:output=a-rather-long-name-of-a-file.pt2", "-o", "out"
    )
    assert done.exit_code == 0
    assert "a-rather-long-name-of-a-file.pt2" in done.stdout
    assert "20 images" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ((), "hint: give --to FORMAT"),
        (("no-such",), "no-such"),
        (("onnx:opsett=18",), "did you mean opset"),
        (("onnx:opset=many",), "opset=many is not an integer"),
        (("onnx:opset=3",), "at least 18"),
        (("onnx:mode=fp61",), "did you mean fp16"),
        (("onnx:mode",), "mode needs a value"),
        (("onnx:opset=18,opset=19",), "twice"),
        (("onnx:external_data=maybe",), "not a boolean"),
        (("onnx:softmax=true",), "applies to all targets"),
        (("onnx:output=../x.onnx",), "is not the name of a file"),
        (("onnx:output=",), "output needs a value"),
        (("onnx:output=x.txt",), "output=x.txt must end in .onnx"),
        (("onnx", "litert:output=a.onnx"), r"; nothing was exported\nhint: use output=a\.tflite$"),
        (("onnx:output=timmx.json",), r"\nhint: use output=timmx\.onnx$"),
        (("onnx:batch-size=99999999999999999999",), "at most 65536"),
        (("onnx:no-dynamic-batch",), "switch it off with dynamic_batch=no"),
        (("onnx:no-optimize=yes",), "switch it off with optimize=no"),
        (("onnx:no-such",), "has no option 'no_such'"),
        (("onnx", "onnx"), "two targets would write"),
        (("openvino:output=a.xml", "ncnn:output=a.param"), r"two targets would write .*a\.bin"),
        (("onnx:output=a.onnx", "onnx:mode=fp16,output=A.onnx"), "hint: leave one of them out"),
        (("litert:dynamic_batch",), "timmx litert .* --dynamic-batch"),
        (("coreml", "litert:mode=int8"), "calibration"),
        (("tensorrt:onnx_only,from_onnx=x.onnx",), "hint: use timmx tensorrt"),
    ],
)
def test_invalid_targets_are_refused_with_the_fix(to, said, digits, tmp_path):
    with pytest.raises(TimmxError, match=said):
        plan_exports(digits, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_formats_whose_files_would_share_a_companion_have_names_of_their_own(digits, tmp_path):
    plans = plan_exports(digits, ["openvino", "openvino:mode=fp16", "ncnn", "onnx"], tmp_path)
    assert [plan.path.name for plan in plans] == [
        *("digits-openvino.xml", "digits-openvino-fp16.xml", "digits-ncnn.param", "digits.onnx")
    ]


def test_the_problems_of_all_targets_are_reported_together(digits, tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        plan_exports(digits, ["onnx:output=a.txt", "torch-export", "litert:dynamic_batch"], tmp_path)
    said = caught.value.message
    assert "2 of 3 targets" in said
    assert "a.txt" in said
    assert "--dynamic-batch" in said
    assert "hint" not in said
    assert "onnx:output=a.txt: use output=a.txt.onnx" in caught.value.hint


def test_errors_are_reported_without_importing_torch(process, digits, tmp_path):
    code = (
        "import sys\n"
        "from timmx.errors import TimmxError\n"
        "from timmx.exporting.several import export_many\n"
        "try:\n"
        "    export_many(sys.argv[1], ['onnx', 'torch-export', 'litert:dynamic_batch'], sys.argv[2])\n"
        "except TimmxError as exc:\n"
        "    print(exc)\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, digits, str(tmp_path / "out")]
    done = subprocess.run(command, text=True, capture_output=True, check=True)
    assert "--dynamic-batch" in done.stdout
    imported = set(done.stderr.split())
    assert "timmx_litert.plugin" in imported
    assert not imported & {"torch", "timm", "onnx", "coremltools", "litert_torch"}


def test_files_of_two_formats_with_one_suffix_have_their_own_names(digits, tmp_path):
    targets = plan_exports(digits, ["onnx", "tensorrt:onnx-only,mode=fp16"], tmp_path)
    assert [target.path.stem.removeprefix("digits") for target in targets] == ["-onnx", "-tensorrt"]


def test_negative_flags_work_in_targets(digits, tmp_path):
    (target,) = plan_exports(digits, ["onnx:no-optimize,no-external-data"], tmp_path)
    assert target.options.optimize is False
    assert target.options.external_data is False


def test_an_unwritable_folder_is_refused_before_the_model_is_loaded(run_timmx, digits, tmp_path):
    (tmp_path / "file").write_text("mine")
    for command in (
        ("export", digits, "--to", "onnx", "-o", "file/out"),
        ("onnx", digits, "-o", "file/x.onnx"),
    ):
        done = run_timmx(*command, "--verbose")
        assert done.exit_code == 2
        assert "file is a file, not a folder" in done.stderr
        assert "Loading" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_batch_size_that_is_too_large_is_refused_before_the_model_runs(run_timmx, tmp_path):
    model = ("test_vit", "--no-verify", "--batch-size", "60000")
    for command in (("export", *model, "--to", "onnx", "-o", "out"), ("onnx", *model, "-o", "x.onnx")):
        done = run_timmx(*command)
        assert done.exit_code == 2
        assert "hint: use a batch of at most 27962" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_values_can_contain_commas(digits, tmp_path):
    (target,) = plan_exports(
        digits, ["coreml:dynamic_batch,batch_sizes=1,2,4,convert_to=mlprogram"], tmp_path
    )
    assert target.options.batch_sizes == (1, 2, 4)
    assert target.options.convert_to == "mlprogram"


def test_without_a_folder_nothing_is_overwritten(run_timmx, digits, tmp_path):
    (tmp_path / "digits.onnx").write_bytes(b"mine")
    refused = run_timmx("export", digits, "--to", "torch-export", "--to", "onnx")
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["digits.onnx"]


def test_after_an_interrupt_finished_files_remain(process, digits, tmp_path):
    process = forks.Popen(
        [sys.executable, "-m", "timmx", "export", digits, "--no-verify", "-o", "out", "--to", "torch-export",
         "--to", "coreml", "--to", "litert"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    manifest = tmp_path / "out" / "timmx.json"
    while not manifest.exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"digits.pt2", "timmx.json"} <= left
    assert set(json.loads(manifest.read_text())["artifacts"]) == left - {"timmx.json"}
    assert "digits.tflite" not in left


def test_a_third_party_backend_can_be_a_target(export, run_timmx, digits, tmp_path):
    source = (
        "import json\n"
        "from timmx.contract import ExportBackend, Exported, Precision\n"
        "class Backend(ExportBackend):\n"
        "    contract = 1\n"
        "    name = '{name}'\n"
        "    help = 'A test format.'\n"
        "    suffixes = ('.{name}',)\n"
        "    def export(self, job, options):\n"
        "        job.path.write_text(job.metadata(Precision.FP32).dumps())\n"
        "        return Exported(Precision.FP32)\n"
        "    def open(self, path, settings):\n"
        "        from timmx.errors import RuntimeUnavailable\n"
        "        raise RuntimeUnavailable('Nothing runs it.')\n"
        "    def read_metadata(self, path): return json.loads(path.read_text())\n"
    )
    install_plugin(tmp_path / "site", "paper", source)
    with installed(tmp_path / "site"):
        done = run_timmx("export", digits, "--to", "paper", "--to", "torch-export", "-o", "out")
        assert done.exit_code == 0, done.stderr
        assert "digits.paper" in done.stdout
        assert "Nothing runs it" in done.stdout
        side = run_timmx("compare", "out", "--no-bench", "--json")
    assert [row["name"] for row in json.loads(side.stdout)["rows"]] == ["digits.paper", "digits.pt2"]
    shutil.rmtree(tmp_path / "site")
