"""The cells of a sweep as a Parquet file, for analysis with pandas, polars, DuckDB or Spark."""

from __future__ import annotations

from dataclasses import fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from timmx.base import atomic_write, may_replace, why_not_in
from timmx.errors import ArtifactError, ConfigurationError, MissingRequirementError
from timmx.sweep.cell import Cell

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.sweep.summary import Summary

_TYPES = {
    "str": "string",
    "CellStatus": "string",
    "int | None": "int64",
    "float": "float64",
    "float | None": "float64",
}


def check_parquet_path(path: Path) -> None:
    """Check that a Parquet file can be written to a path, before any work is done.

    Raises:
        MissingRequirementError: pyarrow is not installed.
        ConfigurationError: the path is a folder or another file, or its folder cannot be written to.
    """
    if find_spec("pyarrow") is None:
        raise MissingRequirementError(
            "--parquet requires pyarrow, which is not installed",
            hint='run uv pip install "timmx-core[parquet]", or use --format jsonl',
        )
    if path.is_dir():
        raise ConfigurationError(f"--parquet {path} is a folder", hint="name a file such as cells.parquet")
    if not may_replace(path, "--parquet", b"par1"):
        raise ConfigurationError(
            f"--parquet {path} exists and is not a Parquet file; it is left unchanged", hint="name a new file"
        )
    problem = why_not_in(path.absolute().parent)
    if problem:
        raise ConfigurationError(f"--parquet {path}: {problem}", hint="choose another folder")


def write_parquet(summary: Summary, path: Path) -> None:
    """Write one row per cell, with the attributes of `Cell` as columns; an existing file is replaced at the end.

    Raises:
        ConfigurationError: the path is invalid; see `check_parquet_path`.
        ArtifactError: it cannot be written.
    """
    check_parquet_path(path)
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, Any] = {}
    for field in fields(Cell):
        values = [getattr(cell, field.name) for cell in summary.cells.values()]
        match field.name:
            case "notes":
                columns["notes"] = pa.array([list(value) for value in values], pa.list_(pa.string()))
            case "versions":
                columns["versions"] = pa.array(
                    [list(value.items()) for value in values], pa.map_(pa.string(), pa.string())
                )
            case name:
                columns[name] = pa.array(values, pa.type_for_alias(_TYPES[str(field.type)]))
    try:
        with atomic_write(path, "wb") as file:
            parquet.write_table(pa.table(columns), file, compression="zstd")
    except OSError as exc:
        raise ArtifactError(
            f"cannot write {path}: {exc.strerror or exc}", hint="fix that, or choose another --parquet"
        ) from exc
