"""Writes an evaluation as a CSV file, one line per image."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING

from timmx.base import atomic_write, may_replace
from timmx.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from timmx.tools.eval.evaluation import Evaluation
    from timmx.tools.eval.multi_label import MultiLabelEvaluation


def check_csv_path(path: Path) -> None:
    """Check that a CSV can be written to a path, before any work is done.

    Raises:
        ConfigurationError: it is a folder, or a file that timmx eval did not write, or its folder is not writable.
    """
    if path.is_dir() or not os.access(Path(os.path.realpath(path)).parent, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"--csv {path} cannot be written: it is a folder, or its folder is missing or not writable",
            hint="name a file in a folder that can be written to",
        )
    if not may_replace(path, "--csv", b"path,label,read,"):
        raise ConfigurationError(
            f"--csv {path} exists and is not a CSV of timmx eval; it is left unchanged",
            hint="name a new file",
        )


def write_csv(evaluation: Evaluation | MultiLabelEvaluation, path: Path) -> None:
    """Write the rows of an evaluation; an existing file is replaced when the new one is complete.

    Raises:
        ArtifactError: it cannot be written.
    """
    rows = evaluation.rows()
    try:
        with atomic_write(path, newline="", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | {"right": {True: 1, False: 0, None: ""}[row["right"]]} for row in rows)
    except OSError as exc:
        raise ArtifactError(
            f"cannot write --csv {path}: {exc.strerror or exc}", hint="fix that, or choose another --csv"
        ) from exc
