"""The files of one model in a sweep: kept in its folder, sent to a storage, or removed after verification."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from timmx.artifact import MANIFEST_NAME
from timmx.exporting import record_result
from timmx.sweep.choices import Keep
from timmx.sweep.storage import Storage

if TYPE_CHECKING:
    from timmx.exporting import ExportResult, Target
    from timmx.sweep.task import Task

REJECTED = "failed"
"""The folder of files that fail verification, below the model's folder; only with `--keep all`."""


class KeptFiles:
    """The files of a task.

    Attributes:
        folder: where they are written on this machine. Files of a storage stay there until the child has ended: the
            formats that follow may be made from them.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.folder = task.folder or Path(tempfile.mkdtemp()) / task.name
        self._storage: Storage | None = None

    def keep(self, target: Target, result: ExportResult) -> str:
        """Keep the files of an export, or remove them.

        Returns:
            The path of the first, relative to the folder or storage of the sweep; empty if it was removed.

        Raises:
            ArtifactError: they cannot be stored.
        """
        task = self._task
        if task.keep is Keep.NONE:
            for path in result.files:
                _remove(path)
            with suppress(OSError):  # not empty: an earlier run has kept files
                self.folder.rmdir()
            return ""
        if not task.storage:
            record_result(self.folder, target, result, None)
        else:
            storage = self._open()
            for path in reversed(
                result.files
            ):  # the first, which states the digests of the others, comes last
                storage.put(path, self._name(path))
            record_result(
                self.folder, target, result, None, exists=lambda name: storage.exists(f"{task.name}/{name}")
            )
            storage.put(self.folder / MANIFEST_NAME, self._name(self.folder / MANIFEST_NAME))
        return self._name(result.path)

    def keep_rejected(self, written: Path) -> None:
        """With `--keep all`, keep what was written and fails verification.

        Args:
            written: the private folder of the export.
        """
        if self._task.keep is not Keep.ALL:
            return
        folder = self.folder / REJECTED
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(written.iterdir()):
            target = folder / path.name
            _remove(target)
            path.replace(target)
            if self._task.storage:
                self._open().put(target, self._name(target))

    def _open(self) -> Storage:
        """The storage; when it is opened first, what earlier runs have left there is read."""
        if self._storage is None:
            task, storage = self._task, Storage(self._task.storage)
            storage.remove_unfinished(task.name)
            if storage.exists(f"{task.name}/{MANIFEST_NAME}"):
                self.folder.mkdir(parents=True, exist_ok=True)
                storage.get(f"{task.name}/{MANIFEST_NAME}", self.folder / MANIFEST_NAME)
            self._storage = storage
        return self._storage

    def _name(self, path: Path) -> str:
        return f"{self._task.name}/{path.relative_to(self.folder).as_posix()}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
