"""Loads each backend in a child process, in parallel: a backend that aborts or hangs does not affect the others.

`python -m timmx.registry.probe NAME` is the child: it loads one backend, checks its environment, and prints one JSON
object on stdout; output of the plugin itself goes to stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from timmx.errors import BackendError, PluginError
from timmx.registry.discovery import BackendEntry, State, entries, load_entry, unreadable
from timmx.registry.distributions import skip_unreadable_entry_points

TIMEOUT_S = 60.0


def probe_backends(timeout_s: float = TIMEOUT_S) -> list[BackendEntry]:
    """Every installed backend, with its state and contract version after loading; then what cannot be read.

    Args:
        timeout_s: seconds after which a backend that still loads is stopped.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
        children: set[subprocess.Popen[str]] = set()
        try:
            backends = list(pool.map(lambda entry: _probe(entry, timeout_s, children), entries()))
        except BaseException:  # Ctrl-C or SIGTERM does not wait for a backend that hangs
            pool.shutdown(wait=False, cancel_futures=True)
            for child in tuple(children):
                child.kill()
            raise
    return [*backends, *unreadable()]


def _probe(entry: BackendEntry, timeout_s: float, children: set[subprocess.Popen[str]]) -> BackendEntry:
    if entry.state not in (State.AVAILABLE, State.DUPLICATE):
        return entry
    result = _run_child(entry, timeout_s, children)
    if entry.state is State.DUPLICATE:  # the name stays ambiguous, even if the backend loads
        return replace(entry, contract=result.get("contract"))
    return replace(entry, **(result | {"state": State(result["state"])}))


def _run_child(entry: BackendEntry, timeout_s: float, children: set[subprocess.Popen[str]]) -> dict[str, Any]:
    fix = f"reinstall it (uv pip install --reinstall {entry.distribution}), or report it to its authors"
    command = [sys.executable, "-m", "timmx.registry.probe", entry.selector]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",  # a plugin can print anything
        # The current folder may be untrusted, and is not searched for modules.
        env=os.environ | {"PYTHONSAFEPATH": "1"},
    )
    children.add(child)
    try:
        output, errors = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        reason = f"loading it took more than {timeout_s:g} s, so it was stopped."
        return {"state": State.BROKEN, "reason": reason, "fix": fix}
    finally:
        children.discard(child)
    try:
        return json.loads(output)
    except json.JSONDecodeError:
        last = errors.strip().splitlines()[-1:] or ["it printed nothing"]
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit status {child.returncode}"
        reason = f"loading it ended the process with {how}: {last[0]}."
        return {"state": State.BROKEN, "reason": reason, "fix": fix}


def _child(selector: str) -> dict[str, Any]:
    entry = next(entry for entry in entries() if entry.selector == selector)
    try:
        backend = load_entry(entry)
    except BackendError as exc:
        return {"state": exc.state, "reason": exc.reason, "fix": exc.hint}
    try:
        problems = backend.check_environment()
    except PluginError as exc:
        return {"state": State.BROKEN, "reason": f"{exc}.", "fix": exc.hint}
    full = [problem for problem in problems if not problem.partial]
    partial = [problem for problem in problems if problem.partial]
    limits = [backend.caveat, *(f"{problem.message.rstrip('.')}: {problem.fix}" for problem in partial)]
    reason = "; ".join(problem.message.rstrip(".") for problem in full)
    return {
        "state": State.NEEDS_SETUP if full else State.AVAILABLE,
        "reason": f"{reason}." if reason else "",
        "fix": "; ".join(problem.fix.rstrip(".") for problem in full),
        "contract": type(backend).contract,
        "limits": " ".join(filter(None, limits)),
    }


def _main() -> None:
    skip_unreadable_entry_points()
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with answer:
        json.dump(_child(sys.argv[1]), answer)
        answer.flush()
        os._exit(0)  # a plugin's threads and exit handlers must not keep the probe alive


if __name__ == "__main__":
    _main()
