"""Exports a captured model, or a typed ONNX, to an engine and its additional files."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir
from timmx.plugin import (
    ArtifactError,
    ConfigurationError,
    Exported,
    ExportRequest,
    Metadata,
    Precision,
    command_words,
    remember_own,
    sha256,
)
from timmx_onnx import external_files, read_metadata

from timmx_tensorrt import gpu, sidecar, triton
from timmx_tensorrt.options import TensorRTOptions
from timmx_tensorrt.profile import choose_profile, read_profile
from timmx_tensorrt.typed import (
    PRECISIONS,
    TypedOnnx,
    check_batches,
    check_graph,
    float32_nodes,
    precision_of,
    write_typed,
)
from timmx_tensorrt.typed_runner import check_valid
from timmx_tensorrt.validation import check_repository

if TYPE_CHECKING:
    from timmx.plugin import ExportJob

_FLOAT8_CAPABILITY = (8, 9)
"""Of Ada; older tensor cores have no float8."""


def export(job: ExportJob, options: TensorRTOptions) -> Exported:
    """Write the typed ONNX, or the engine with its sidecar and the other requested files.

    Raises:
        ConfigurationError: batch sizes or calibration data are unusable, or the GPU lacks the arithmetic.
        UnsupportedError: TensorRT does not take the model.
        VerificationError: the typed ONNX does not run at one of its batch sizes.
    """
    if options.onnx_only:
        typed = write_typed(job, options, job.path)
        return Exported(typed.precision, typed.notes)
    check_repository(job.request.output or Path(job.path.name), options)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if options.from_onnx is not None:
            source = options.from_onnx
            typed = _read_typed(job, options, source)
        else:
            _check_gpu(PRECISIONS[options.chosen_mode])
            source = job.extra_output(options.keep_onnx) if options.keep_onnx else Path(folder, "model.onnx")
            typed = write_typed(job, options, source)
        notes = _write_engine(job, options, typed, source)
    return Exported(typed.precision, (*typed.notes, *notes))


def _read_typed(job: ExportJob, options: TensorRTOptions, path: Path) -> TypedOnnx:
    """Read a file that `--onnx-only` or `--keep-onnx` wrote, and check it again: it may have been edited."""
    metadata = Metadata.parse(path, read_metadata(path))
    source_profile = read_profile(path, metadata)
    if source_profile is None:
        raise ArtifactError(
            f"{path} was not written by timmx tensorrt --onnx-only or --keep-onnx",
            hint="export the model again with timmx tensorrt --onnx-only",
        )
    precision = precision_of(ir.load(path))
    if metadata.precision != precision:
        raise ArtifactError(
            f"the metadata of {path} says {metadata.precision}, but its types are {precision}",
            hint="export the model again with timmx tensorrt --onnx-only",
        )
    _check_gpu(precision)
    dynamic, size = job.request.dynamic_batch, job.request.batch_size
    profile = choose_profile(options, dynamic, size, source_profile)
    if not dynamic and size != metadata.batch_size:
        raise ArtifactError(
            f"{path} has a fixed batch size of {metadata.batch_size}, but --batch-size is {size}",
            hint="leave --batch-size out, or export the model again",
        )
    check_valid(path)
    warnings = check_graph(path, dynamic=dynamic)
    notes = tuple(f"{path.name}: {warning}." for warning in warnings[:5])
    if len(warnings) > 5:
        notes += (f"{path.name}: {len(warnings) - 5} more warnings; --verbose shows all.",)
    check_batches(path, profile, job.example_input.cpu().numpy())
    return TypedOnnx(precision, {**metadata.format, "profile": profile.facts()}, profile, notes)


def _check_gpu(precision: Precision) -> None:
    """Refuse a GPU without float8 before the model is translated, which takes minutes."""
    if precision is not Precision.FP8:
        return
    card = gpu.facts()
    if tuple(map(int, card["compute_capability"].split("."))) < _FLOAT8_CAPABILITY:
        raise ConfigurationError(
            f"--mode fp8 needs a GPU of compute capability 8.9 or later, and {card['gpu']} has "
            f"{card['compute_capability']}",
            hint="use --mode int8 or fp16, or build on a newer GPU from the file that --onnx-only writes",
        )


def _write_engine(job: ExportJob, options: TensorRTOptions, typed: TypedOnnx, onnx: Path) -> tuple[str, ...]:
    from timmx_tensorrt.engine import BuildSettings, build, version

    metadata = job.metadata(typed.precision, **typed.facts)
    onnx_sha256 = sidecar.concatenated_sha256(onnx, *external_files(onnx))
    job.progress("Building the engine")
    settings = BuildSettings(
        profile=typed.profile if metadata.dynamic_batch else None,
        tf32=typed.precision is not Precision.FP32,
        workspace_bytes=None if options.workspace is None else int(options.workspace * 2**30),
        opt_level=options.opt_level,
        timing_cache=options.timing_cache,
        version_compatible=options.version_compatible,
        hardware_compat=options.hardware_compat,
        name=f"timmx {onnx_sha256}",
    )
    result = build(onnx, settings)
    job.path.write_bytes(result.plan)
    plan_sha256 = sha256(job.path)
    remember_own(plan_sha256)
    engine = {
        "plan_sha256": plan_sha256,
        "onnx_sha256": onnx_sha256,
        "float32_nodes": float32_nodes(ir.load(onnx)),
        "tensorrt": version(),
        **gpu.facts(),
        "workspace_bytes": settings.workspace_bytes,
        "opt_level": settings.opt_level,
        "version_compatible": options.version_compatible,
        "hardware_compat": str(options.hardware_compat),
        "rebuild": rebuild_command(job, options),
    }
    sidecar.write(job.path, metadata, engine)
    if options.triton is not None:
        triton.write_model(job.extra_output(options.triton / job.path.stem), job.path, metadata)
    return result.notes


def rebuild_command(job: ExportJob, options: TensorRTOptions) -> str | None:
    """The command that builds the engine again, on this GPU or another one; from the typed ONNX if that was kept.

    None if the model was a module of the caller, which a command line cannot name. Relative paths are relative to the
    folder in which the export ran.
    """
    request, onnx = job.request, options.keep_onnx
    output = request.output or Path(job.path.name)
    if onnx is not None:
        options = TensorRTOptions(
            from_onnx=onnx,
            batch_min=options.batch_min,
            batch_max=options.batch_max,
            triton=options.triton,
            workspace=options.workspace,
            opt_level=options.opt_level,
            timing_cache=options.timing_cache,
            version_compatible=options.version_compatible,
            hardware_compat=options.hardware_compat,
        )
        request = ExportRequest(
            model=None,
            device=request.device,
            verify=request.verify,
            verify_data=request.verify_data,
            min_snr=request.min_snr,
            batch_size=request.batch_size if request.dynamic_batch else None,
        )
    elif request.model is not None and not isinstance(request.model, str):
        return None
    elif options.from_onnx is not None:
        request = replace(request, normalize=False, dynamic_batch=False)
    return shlex.join(command_words("tensorrt", replace(request, output=output), options))
