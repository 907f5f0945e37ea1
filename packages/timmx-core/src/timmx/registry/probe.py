"""Tries backends in processes of their own, side by side: one that aborts or hangs is a row, not the end.

Run as `python -m timmx.registry.probe NAME`, it is the child: it loads one backend, asks for its environment's
problems, and prints one JSON object on the stdout that it was given; whatever the plugin prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from timmx.errors import BackendError
from timmx.registry.discovery import BackendEntry, State, entries, load_entry

TIMEOUT_S = 60.0


def probe_backends(timeout_s: float = TIMEOUT_S) -> list[BackendEntry]:
    """Every installed backend, with the state that loading it shows and the contract it was written for.

    Args:
        timeout_s: how long one may take before it counts as hanging.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
        return list(pool.map(lambda entry: _probe(entry, timeout_s), entries()))


def _probe(entry: BackendEntry, timeout_s: float) -> BackendEntry:
    if entry.state not in (State.AVAILABLE, State.DUPLICATE):
        return entry
    found = _run_child(entry, timeout_s)
    if entry.state is State.DUPLICATE:  # loading it does not change that the name alone chooses nobody
        return replace(entry, contract=found.get("contract"))
    return replace(entry, **(found | {"state": State(found["state"])}))


def _run_child(entry: BackendEntry, timeout_s: float) -> dict[str, Any]:
    fix = f"reinstall it (uv pip install --reinstall {entry.distribution}), or report it to its authors"
    command = [sys.executable, "-m", "timmx.registry.probe", entry.selector]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        reason = f"loading it took more than {timeout_s:g} s, so it was stopped."
        return {"state": State.BROKEN, "reason": reason, "fix": fix}
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        reason = f"loading it ended the process with {how}: {last[0]}."
        return {"state": State.BROKEN, "reason": reason, "fix": fix}


def _child(selector: str) -> dict[str, Any]:
    entry = next(entry for entry in entries() if entry.selector == selector)
    try:
        backend = load_entry(entry)
    except BackendError as exc:
        return {"state": exc.state, "reason": exc.reason, "fix": exc.hint}
    found = backend.check_environment()
    problems = [problem for problem in found if not problem.partial]
    partial = [problem for problem in found if problem.partial]
    limits = [backend.caveat, *(f"{problem.message.rstrip('.')}: {problem.fix}" for problem in partial)]
    reason = "; ".join(problem.message.rstrip(".") for problem in problems)
    return {
        "state": State.NEEDS_SETUP if problems else State.AVAILABLE,
        "reason": f"{reason}." if reason else "",
        "fix": "; ".join(problem.fix.rstrip(".") for problem in problems),
        "contract": type(backend).contract,
        "limits": " ".join(filter(None, limits)),
    }


def _main() -> None:
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with answer:
        json.dump(_child(sys.argv[1]), answer)
        answer.flush()
        os._exit(0)  # a plugin's threads and exit handlers must not keep the probe alive


if __name__ == "__main__":
    _main()
