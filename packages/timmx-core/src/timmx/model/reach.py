"""Files from the model hub or a URL, through the usual caches. A missing network is reported within seconds.

huggingface_hub 2.4 makes a HEAD request of 10 s, then up to five retries of 60 s each, before it tries the cache or
raises an error; torch.hub waits without a limit. So the host is probed first, while torch is imported, and every
download runs in a watched thread.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from timmx.base import atomic_write, reporter
from timmx.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ANSWER_S = 8.0
"""Seconds within which a host must answer."""
STALL_S = 120.0
"""Seconds within which a running download must make progress (the hub's client writes in steps of 10 MB)."""

_GIVE_WEIGHTS = "give the weights with --checkpoint FILE or as local-dir:FOLDER"


class Probe:
    """Checks in the background, from its creation on, whether a host answers."""

    def __init__(self, url: str | None = None) -> None:
        self.url = url or _endpoint()
        self._deadline = time.monotonic() + ANSWER_S
        self._answer: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reason: str | None = None
        request = _hub_request if url is None else _url_request
        threading.Thread(target=self._ask, args=(request,), daemon=True).start()

    def failure(self) -> str | None:
        """The reason why the host cannot be reached, or None. Waits up to `ANSWER_S` after the creation."""
        if self._reason is None:
            try:
                self._reason = self._answer.get(timeout=max(0.0, self._deadline - time.monotonic()))
            except queue.Empty:
                self._reason = f"no answer in {ANSWER_S:.0f} s"
        return self._reason or None

    def _ask(self, request: Callable[[str], None]) -> None:
        try:
            request(self.url)
        except Exception as exc:  # from several HTTP libraries; only the reason is used
            self._answer.put(_reason(exc))
        else:
            self._answer.put("")


def hub_file(hub_id: str, names: Sequence[str], *, newest: bool = False, probe: Probe | None = None) -> Path:
    """The first existing file of `names` of a model on the hub, from the cache or downloaded into it.

    Args:
        hub_id: `owner/name`, with `@revision` for another revision than the main branch.
        names: file names, the preferred first.
        newest: check the hub for a newer version even if the cache has the file.
        probe: a probe of the hub that was started earlier.

    Raises:
        ModelError: the file is not in the cache, and the hub cannot be reached, refuses, or does not have it.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    repo, _, revision = hub_id.partition("@")
    paths = (try_to_load_from_cache(repo, name, revision=revision or None) for name in names)
    cached = next((Path(path) for path in paths if isinstance(path, str)), None)
    if cached and (constants.HF_HUB_OFFLINE or not newest):
        return cached
    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{hub_id} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set",
            hint=f"unset HF_HUB_OFFLINE, or {_GIVE_WEIGHTS}",
        )
    failure = (probe or Probe()).failure()
    if failure and cached:
        reporter().detail(
            f"{_host(_endpoint())} cannot be reached ({failure}): {hub_id} comes from the cache."
        )
        return cached
    if failure:
        raise unreachable(hub_id, _endpoint(), failure)
    return _download_from_hub(hub_id, names)


def url_file(url: str) -> Path:
    """A file that timm hosts elsewhere, from torch.hub's cache or downloaded into it.

    Raises:
        ModelError: the host cannot be reached or refuses.
    """
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlsplit(url).path).name
    if path.is_file():
        return path
    failure = Probe(url).failure()
    if failure:
        raise unreachable(path.name, url, failure)
    reporter().step(f"Downloading {path.name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _watched(lambda: _fetch(url, path), folder, what=path.name, url=url)
    except urllib.error.HTTPError as exc:
        raise ModelError(
            f"{path.name} cannot be downloaded: {_host(url)} answers {exc.code} {exc.reason}",
            hint="give the weights with --checkpoint FILE",
        ) from exc
    except (OSError, http.client.HTTPException) as exc:
        raise unreachable(path.name, url, _reason(exc)) from exc


def unreachable(what: str, url: str, reason: str) -> ModelError:
    """The error for a file that cannot be downloaded from a host."""
    return ModelError(
        f"{what} cannot be downloaded: {_host(url)} cannot be reached ({reason})",
        hint=f"{_GIVE_WEIGHTS}; or fill the cache on a machine with network access and set HF_HUB_OFFLINE=1 here; "
        "or set "
        "HTTPS_PROXY, or HF_ENDPOINT to a mirror",
    )


def _download_from_hub(hub_id: str, names: Sequence[str]) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, _, revision = hub_id.partition("@")

    def download(name: str) -> str:
        with _without_bars():
            return hf_hub_download(
                repo, name, revision=revision or None, library_name="timmx", etag_timeout=0.6 * ANSWER_S
            )

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    for name in names:
        reporter().step(f"Downloading {repo}/{name}")
        try:
            return Path(_watched(partial(download, name), folder, what=hub_id, url=_endpoint()))
        except GatedRepoError as exc:
            raise ModelError(
                f"{repo} is gated", hint=f"accept its terms at {_endpoint()}/{repo}, then run hf auth login"
            ) from exc
        except RepositoryNotFoundError as exc:
            raise ModelError(
                f"{repo!r} does not exist on the Hugging Face Hub, or is private",
                hint=f"check {_endpoint()}/{repo}; for a private model, run hf auth login or set HF_TOKEN",
            ) from exc
        except RevisionNotFoundError as exc:
            raise ModelError(
                f"{repo} has no revision {revision!r}",
                hint=f"name another revision, or leave @{revision} out for the main branch",
            ) from exc
        except LocalEntryNotFoundError as exc:  # no network; a subclass of EntryNotFoundError
            raise unreachable(hub_id, _endpoint(), _reason(exc.__cause__ or exc)) from exc
        except EntryNotFoundError:
            continue
        except HfHubHTTPError as exc:
            raise ModelError(
                f"the Hugging Face Hub refused {hub_id}: {_reason(exc)}", hint=_GIVE_WEIGHTS
            ) from exc
        except ModelError:
            raise
        except Exception as exc:  # from several HTTP libraries, or a full disk
            raise ModelError(f"{hub_id} cannot be downloaded: {_reason(exc)}", hint=_GIVE_WEIGHTS) from exc
    raise ModelError(
        f"{hub_id} on the hub has no {' or '.join(names)}, so it is not a timm model",
        hint=f"check its files at {_endpoint()}/{repo}",
    )


def _watched(work: Callable[[], Any], folder: Path, *, what: str, url: str) -> Any:
    """Run `work` in a thread, so that Ctrl-C works; raise an error when the files in `folder` stop growing."""
    outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except BaseException as exc:  # raised again in the caller's thread
            outcome.put((None, exc))

    threading.Thread(target=run, daemon=True).start()
    first = latest = _sizes(folder)
    progress_at = time.monotonic()
    while True:
        try:
            result, error = outcome.get(timeout=0.2)
        except queue.Empty:
            sizes = _sizes(folder)
            if sizes != latest:
                latest, progress_at = sizes, time.monotonic()
            if time.monotonic() - progress_at > (ANSWER_S if latest == first else STALL_S):
                raise unreachable(what, url, "it stopped answering") from None
        else:
            if error is not None:
                raise error
            return result


def _sizes(folder: Path) -> dict[str, int]:
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            try:
                sizes[str(path)] = path.lstat().st_size
            except OSError:  # renamed to its final name in the meantime
                continue
    return sizes


def _fetch(url: str, path: Path) -> Path:
    request = _user_agent(url)
    with urllib.request.urlopen(request, timeout=ANSWER_S) as source, atomic_write(path, "wb") as file:
        while block := source.read(1 << 20):
            file.write(block)
        if file.tell() < int(source.headers.get("Content-Length") or 0):
            raise ConnectionError("the connection ended before the file")
    return path


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Turn off the hub's progress bars inside the block: they would overwrite ours."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _hub_request(url: str) -> None:
    from huggingface_hub.utils import get_session

    get_session().head(url, timeout=ANSWER_S)


def _url_request(url: str) -> None:
    with contextlib.suppress(urllib.error.HTTPError):  # any answer counts; the download reports the error
        urllib.request.urlopen(_user_agent(url, "HEAD"), timeout=ANSWER_S).close()


def _user_agent(url: str, method: str = "GET") -> urllib.request.Request:
    return urllib.request.Request(url, headers={"User-Agent": "timmx"}, method=method)


def _host(url: str) -> str:
    return urlsplit(url).netloc or url


def _reason(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return (lines[0] if lines else type(exc).__name__).rstrip(".")
