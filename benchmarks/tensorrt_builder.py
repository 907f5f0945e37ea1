"""Which typed ONNX files NVIDIA's parser and engine builder accept, on a CPU.

    uv run benchmarks/tensorrt_builder.py [NAME ...] [--mode fp16 int8] [--files DIR] [--seconds 120] [--resume FILE]

For each model, by default those of tests/families.json, with random weights, and each precision: the typed ONNX file is
parsed by NVIDIA's ONNX parser and built by TensorRT for RTX 1.7 (see tests/trt/rtx.py, which downloads 170 MB). It
prints one row of Markdown per model: layers, and seconds of the build, or why it failed. With --files, files that a
sweep wrote with --keep are used (DIR/MODEL/*.onnx) where they exist. With --resume, results are kept in FILE, and
models in it are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import timmx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from trt import rtx  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME")
    parser.add_argument("--mode", nargs="+", default=["fp16", "int8"])
    parser.add_argument("--files", type=Path)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--resume", type=Path)
    args = parser.parse_args()
    models = args.models or json.loads((ROOT / "tests" / "families.json").read_text())
    results = json.loads(args.resume.read_text()) if args.resume and args.resume.exists() else {}
    print(f"| model | {' | '.join(args.mode)} |\n| --- |{' --- |' * len(args.mode)}")
    with tempfile.TemporaryDirectory() as folder:
        nvidia = rtx.install(Path(folder))
        for model in models:
            cells = []
            for mode in args.mode:
                key = f"{model} {mode}"
                if key not in results:
                    results[key] = judge(nvidia, model, mode, args.files, args.seconds)
                    if args.resume:
                        args.resume.write_text(json.dumps(results, indent=1))
                cells.append(words(results[key]))
            print(f"| {model} | {' | '.join(cells)} |", flush=True)


def judge(nvidia: rtx.Rtx, model: str, mode: str, files: Path | None, seconds: float) -> dict:
    """The result of the parser, and of the builder if it parsed."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = written(model, mode, files) or export(model, mode, Path(folder) / "model.onnx")
        except timmx.TimmxError as exc:
            return {"errors": [f"no typed ONNX: {exc.message}"]}
        parsed = nvidia.parse(path)
        return parsed if parsed["errors"] else parsed | nvidia.build(path, seconds)


def written(model: str, mode: str, files: Path | None) -> Path | None:
    """The file of a sweep that contains the model in this precision."""
    for path in sorted(files.glob(f"{model}/*.onnx")) if files else ():
        if (timmx.open(path).metadata.get("precision")) == mode:
            return path
    return None


def export(model: str, mode: str, path: Path) -> Path:
    options = {"random_calibration": True} if mode in ("int8", "fp8") else {}
    return timmx.export(
        "tensorrt", model, output=path, onnx_only=True, mode=mode, verify=False, **options
    ).path


def words(result: dict) -> str:
    if result["errors"]:
        return result["errors"][0].replace("|", "/").replace("\n", " ")[:200]
    if "unfinished" in result:
        return f"{result['layers']:,} layers, build takes longer"
    return f"{result['layers']:,} layers, {result['build_seconds']:.0f} s"


if __name__ == "__main__":
    main()
