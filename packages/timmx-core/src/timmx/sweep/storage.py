"""Files of a sweep at an fsspec URL, such as `s3://bucket/sweep`: written under a temporary name, then moved.

On a file system the move is one rename. On an object store it is a copy and a deletion; an object itself appears only
when it is complete. A folder is removed before its new version is moved, so it is missing for a moment.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from timmx.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPORARY = ".timmx-upload-"
"""The names of unfinished files and folders begin with this."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""The extra of timmx-core with the file system of a protocol."""


class Storage:
    """A folder at an fsspec URL.

    Args:
        url: such as `s3://bucket/sweep` or `file:///mnt/sweep`, or an absolute path.

    Raises:
        ConfigurationError: the protocol is unknown or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self._url = url.rstrip("/")
        protocol = url.partition("://")[0]
        try:
            if "://" in url:
                self._files, self._root = fsspec.url_to_fs(self._url)
            else:
                self._files, self._root = fsspec.filesystem("file"), self._url
        except ImportError as exc:
            extra = _EXTRAS.get(protocol)
            hint = (
                f'run uv pip install "timmx-core[{extra}]"' if extra else "install the package that it names"
            )
            raise ConfigurationError(
                f"--storage {url}: the package for {protocol}:// is not installed: {exc}", hint=hint
            ) from exc
        except ValueError as exc:
            raise ConfigurationError(
                f"--storage {url} cannot be used: {exc}",
                hint="use a URL of fsspec, such as s3://BUCKET/FOLDER",
            ) from exc

    def check(self) -> None:
        """Write a small file and remove it.

        Raises:
            ArtifactError: the storage refuses it.
        """
        with self.marker(f"{TEMPORARY}{uuid.uuid4().hex}"):
            return

    @contextmanager
    def marker(self, prefix: str) -> Iterator[str]:
        """Write a small file by which other machines know that they see this storage, and remove it at the end.

        Args:
            prefix: of its name; files with this prefix, which a killed process has left, are removed.

        Yields:
            Its name.

        Raises:
            ArtifactError: the storage refuses it.
        """
        name = f"{prefix}{uuid.uuid4().hex}"
        path = f"{self._root}/{name}"
        with self._errors("", "written"):
            self._make_folder(self._root)
            self._files.pipe_file(path, b"timmx")
        for left in self.names():
            if left.startswith(prefix) and left != name:
                self._remove(left)
        try:
            yield name
        finally:
            self._remove(name)

    def put(self, source: Path, name: str) -> None:
        """Store a file or folder, and replace an earlier one.

        Args:
            source: the file or folder.
            name: its path below the URL, with `/`.

        Raises:
            ArtifactError: the storage refuses it; an earlier file is unchanged.
        """
        parent, _, last = f"{self._root}/{name}".rpartition("/")
        final, temporary = f"{parent}/{last}", f"{parent}/{TEMPORARY}{uuid.uuid4().hex}-{last}"
        is_folder = source.is_dir()
        with self._errors(name, "written"):
            self._make_folder(parent)
            try:
                if is_folder:
                    self._files.put(str(source), temporary, recursive=True)
                    if self._files.exists(final):
                        self._files.rm(final, recursive=True)
                else:
                    self._files.put_file(str(source), temporary)
                self._move(temporary, final, is_folder)
            except BaseException:
                if self._files.exists(temporary):
                    self._files.rm(temporary, recursive=is_folder)
                raise

    def get(self, name: str, target: Path) -> None:
        """Copy a stored file or folder to this machine.

        Raises:
            ArtifactError: it does not exist or cannot be read.
        """
        path = f"{self._root}/{name}"
        with self._errors(name, "read"):
            self._files.get(path, str(target), recursive=self._files.isdir(path))

    def exists(self, name: str) -> bool:
        """Whether something is stored under a name.

        Raises:
            ArtifactError: the storage does not answer.
        """
        with self._errors(name, "read"):
            return bool(self._files.exists(f"{self._root}/{name}"))

    def names(self, folder: str = "") -> list[str]:
        """What a stored folder contains; empty if it does not exist.

        Raises:
            ArtifactError: the storage does not answer.
        """
        path = f"{self._root}/{folder}".rstrip("/")
        with self._errors(folder, "read"):
            if not self._files.isdir(path):
                return []
            self._files.invalidate_cache(path)
            return sorted(
                str(found).rstrip("/").rpartition("/")[2] for found in self._files.ls(path, detail=False)
            )

    def remove_unfinished(self, folder: str) -> None:
        """Remove what a killed process has left in a folder.

        Raises:
            ArtifactError: the storage refuses it.
        """
        for name in self.names(folder):
            if name.startswith(TEMPORARY):
                with self._errors(f"{folder}/{name}", "removed"):
                    self._files.rm(f"{self._root}/{folder}/{name}", recursive=True)

    def _remove(self, name: str) -> None:
        """Remove a file; if the storage refuses that, it stays."""
        with suppress(ArtifactError), self._errors(name, "removed"):
            self._files.rm_file(f"{self._root}/{name}")

    def _make_folder(self, path: str) -> None:
        if (
            not self._files.async_impl
        ):  # object stores are asynchronous, have no folders, and would create a bucket
            self._files.makedirs(path, exist_ok=True)

    def _move(self, source: str, target: str, is_folder: bool) -> None:
        from fsspec import AbstractFileSystem

        renames = not self._files.async_impl and type(self._files).mv is not AbstractFileSystem.mv
        if renames or not is_folder:
            self._files.mv(source, target, recursive=is_folder)
            return
        for path in self._files.find(source):  # fsspec 2026.9 would also copy the folders, which do not exist
            self._files.mv(path, target + path.removeprefix(source))
        if self._files.exists(source):
            self._files.rm(source, recursive=True)

    @contextmanager
    def _errors(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # each file system of fsspec has its own errors
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            raise ArtifactError(
                f"{'/'.join(filter(None, (self._url, name)))} cannot be {what}: {reason or type(exc).__name__}",
                hint="check --storage and its credentials, and run the same command with --resume",
            ) from exc
