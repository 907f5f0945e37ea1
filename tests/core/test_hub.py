"""Downloads from the hub and other hosts: with a network, without one, and with hosts that never answer."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from timmx.errors import ModelError
from timmx.model import reach

pytestmark = pytest.mark.usefixtures("process")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(repositories: dict[str, Path]):
    """A server with the hub's download protocol: repository name -> its folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool):
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            file = repositories.get(repository, Path("nowhere")) / name
            error = None
            if self.path == "/":
                data = b"a hub"
            elif repository not in repositories:
                error = "RepoNotFound"
            elif revision not in ("main", COMMIT):
                error = "RevisionNotFound"
            elif not file.is_file():
                error = "EntryNotFound"
            else:
                data = file.read_bytes()
            self.send_response(404 if error else 200)
            if error:
                data = b""
                self.send_header("X-Error-Code", error)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def silent_host():
    """A server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def closed_host() -> str:
    """An address where no server listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def python(code: str, cache: Path, endpoint: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run in another process: the hub's client reads its environment once, when it is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_HOME": str(cache), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1", "TORCH_HOME": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **own, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


FETCH = """
import sys, time
from timmx.errors import ModelError
from timmx.model.reach import hub_file
start = time.monotonic()
try:
    print(hub_file(sys.argv[1], sys.argv[2:], newest=True))
except ModelError as exc:
    print(exc)
    sys.exit(2)
finally:
    assert time.monotonic() - start < 15
    assert "torch" not in sys.modules
"""


def fetch(cache: Path, endpoint: str, *arguments: str, **environment: str):
    code = FETCH.replace("sys.argv[1]", repr(arguments[0])).replace("sys.argv[2:]", repr(list(arguments[1:])))
    return python(code, cache, endpoint, **environment)


def check_unreachable(run: subprocess.CompletedProcess[str], host: str) -> None:
    assert run.returncode == 2, run.stderr
    error, hint = run.stdout.splitlines()
    assert host.removeprefix("http://") in error
    assert hint.startswith("hint: ")
    for words in ("--checkpoint", "local-dir:", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        assert words in hint


def test_a_host_that_never_answers_is_reported(tmp_path):
    with silent_host() as endpoint:
        check_unreachable(fetch(tmp_path, endpoint, "me/digits", "config.json"), endpoint)


def test_a_refused_connection_is_reported(tmp_path):
    endpoint = closed_host()
    check_unreachable(fetch(tmp_path, endpoint, "me/digits", "config.json"), endpoint)


def test_cached_files_need_no_network(tmp_path, digits):
    with hub({"me/digits": Path(digits.removeprefix("local-dir:"))}) as endpoint:
        first = fetch(tmp_path, endpoint, "me/digits", "missing.bin", "config.json")
    assert first.returncode == 0, first.stdout + first.stderr
    again = fetch(tmp_path, endpoint, "me/digits", "missing.bin", "config.json")
    offline = fetch(tmp_path, closed_host(), "me/digits", "config.json", HF_HUB_OFFLINE="1")
    assert first.stdout == again.stdout == offline.stdout
    assert json.loads(Path(first.stdout.strip()).read_text())["architecture"]


def test_offline_mode_without_a_cached_file_is_reported(tmp_path):
    with hub({}) as endpoint:
        run = fetch(tmp_path, endpoint, "me/digits", "config.json", HF_HUB_OFFLINE="1")
    assert run.returncode == 2
    assert "HF_HUB_OFFLINE is set" in run.stdout


def test_missing_repositories_and_files_are_reported(tmp_path, digits):
    with hub({"me/digits": Path(digits.removeprefix("local-dir:"))}) as endpoint:
        for arguments, words in (
            (("me/other", "config.json"), "'me/other' does not exist on the Hugging Face Hub, or is private"),
            (("me/digits@v9", "config.json"), "no revision 'v9'"),
            (("me/digits", "a.bin", "b.bin"), "has no a.bin or b.bin"),
        ):
            run = fetch(tmp_path, endpoint, *arguments)
            assert run.returncode == 2, run.stderr
            assert words in run.stdout


LOAD = """
import json, sys, timmx.model.source
from timmx.errors import TimmxError
from timmx.model.load import load_model
from timmx.contract.options import ExportRequest
for options in {requests!r}:
    try:
        loaded = load_model(ExportRequest(**options))
    except TimmxError as exc:
        print(json.dumps(str(exc)))
    else:
        facts = [loaded.name, loaded.source, loaded.trained, loaded.num_classes, loaded.weights_sha256]
        print(json.dumps(facts))
"""


def load(cache: Path, endpoint: str, *requests: dict, **environment: str) -> list:
    run = python(LOAD.format(requests=requests), cache, endpoint, **environment)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.slow
def test_models_are_loaded_from_the_hub_and_then_from_its_cache(tmp_path, digits):
    """One process loads from the hub, the next one from the cache, without the hub."""
    import timm
    from safetensors.torch import save_file
    from timmx.contract.options import ExportRequest
    from timmx.model.load import hash_weights, load_model

    weights = tmp_path / "weights"
    weights.mkdir()
    vit = timm.create_model("test_vit")
    save_file(vit.state_dict(), weights / "model.safetensors")
    repositories = {
        "me/digits": Path(digits.removeprefix("local-dir:")),
        "timm/test_vit.r160_in1k": weights,
    }
    requests = (
        {"model": "hf-hub:me/digits"},
        {"model": "hf-hub:me/digits@main", "num_classes": 0},
        {"model": "test_vit", "pretrained": True},
    )
    with hub(repositories) as endpoint:
        found = load(tmp_path / "cache", endpoint, *requests)
    own = load_model(ExportRequest(model=digits))
    assert found[0] == ["me/digits", "hf-hub", True, 10, own.weights_sha256]
    assert found[1][:4] == ["me/digits", "hf-hub", True, 0]
    assert found[2] == ["test_vit.r160_in1k", "timm", True, 1000, hash_weights(vit)]
    assert load(tmp_path / "cache", endpoint, *requests) == found


def test_weights_are_downloaded_from_other_hosts(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net.pth").write_bytes(bytes(3_000_000))
    with hub({"files": tmp_path / "weights"}) as endpoint:
        url = f"{endpoint}/files/resolve/main/net.pth"
        path = reach.url_file(url)
        assert path == tmp_path / "torch" / "checkpoints" / "net.pth"
        assert path.read_bytes() == bytes(3_000_000)
        with pytest.raises(ModelError, match="answers 404"):
            reach.url_file(f"{endpoint}/files/resolve/main/other.pth")
    assert reach.url_file(url) == path
    with pytest.raises(ModelError, match="refused"):
        reach.url_file(f"{closed_host()}/net2.pth")
    assert [file.name for file in path.parent.iterdir()] == ["net.pth"]


def test_a_stalled_download_is_stopped(tmp_path, monkeypatch):
    """The server sends the file's length, a part of it, and then nothing."""
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(reach, "ANSWER_S", 1.0)
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(bytes(1000))
            self.wfile.flush()
            stop.wait(20)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ModelError, match="cannot be reached"):
            reach.url_file(f"http://127.0.0.1:{server.server_port}/net.pth")
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
    assert list((tmp_path / "torch" / "checkpoints").iterdir()) == []
