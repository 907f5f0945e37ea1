"""Connects this process to a Ray cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import importlib_metadata

from timmx.errors import ConfigurationError, MissingRequirementError

if TYPE_CHECKING:
    from collections.abc import Iterator

_REACH_S = 3.0
"""How long the port of a cluster may take to accept a connection."""

_IMPORT_S = 60.0
"""How long a Python process may take to import Ray: 1 s, and more on a busy machine or a network file system."""

_ANSWER_S = 6.0
"""How long a cluster may take to answer, in addition to the import of Ray."""


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to a cluster; a connection that exists already is used, and stays.

    Raises:
        MissingRequirementError: Ray is not installed, or another version than timmx requires.
        ConfigurationError: the cluster does not answer, or has other versions of Ray or Python.
    """
    check_address(address)
    # Under `uv run`, Ray would copy the current folder to the nodes, and install a project there that it does not find.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    _check_answer(address)
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Check an address within 3 s, without importing Ray: something accepts connections there.

    Raises:
        MissingRequirementError: Ray is not installed, or another version than timmx requires.
        ConfigurationError: the address is invalid, or nothing answers.
    """
    _check_requirement()
    # Ray prefers this variable to the address that `ray start` has written on this machine.
    there = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    if there.startswith("ray://"):
        raise ConfigurationError(
            f"--ray {there}: Ray Client cannot stream results",
            hint="run timmx on a node of the cluster, for example with ray job submit, and use --ray auto",
        )
    if there == "auto":
        return
    host, port = _host_and_port(there)
    if not host or not port:
        raise ConfigurationError(
            f"--ray {there} is neither HOST:PORT nor auto", hint="the port of a head node is 6379 by default"
        )
    if reason := _why_unreachable(host, port):
        raise _no_answer(there, reason)


def _check_requirement() -> None:
    from packaging.requirements import Requirement

    if find_spec("ray") is None:
        raise MissingRequirementError("--ray requires Ray, which is not installed", hint=_INSTALL)
    version = importlib_metadata.version("ray")
    for text in importlib_metadata.requires("timmx-core") or ():
        requirement = Requirement(text)
        if requirement.name == "ray" and not requirement.specifier.contains(version, prereleases=True):
            raise MissingRequirementError(
                f"--ray requires Ray {requirement.specifier}, and {version} is installed", hint=_INSTALL
            )


_INSTALL = 'run uv pip install "timmx-core[ray]"'


def _host_and_port(address: str) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(f"//{address}")
        return parts.hostname, parts.port
    except ValueError:
        return None, None


def _why_unreachable(host: str, port: int) -> str:
    """Why a port does not accept a connection; empty if it does."""
    reasons = [f"no connection within {_REACH_S:g} s"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_REACH_S).close()
        except OSError as exc:
            reasons.append(exc.strerror or str(exc))
        else:
            reasons.append("")

    thread = threading.Thread(target=connect, daemon=True)  # a name server has time limits of its own
    thread.start()
    thread.join(_REACH_S + 0.5)
    return reasons[-1]


_CONNECT = """
import sys, ray
print("imported", flush=True)
try:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
except (ConnectionError, OSError, RuntimeError, ValueError, AssertionError) as error:
    print(error, flush=True)
    sys.exit(1)
ray.shutdown()
"""


def _check_answer(address: str) -> None:
    """Connect in another process: if nothing answers, Ray waits 80 s and then ends the process that asked."""
    reason, code = "", 1
    with subprocess.Popen(
        [sys.executable, "-c", _CONNECT, address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONSAFEPATH": "1"},
    ) as process:
        assert process.stdout is not None
        importing = threading.Timer(_IMPORT_S, process.kill)
        importing.start()
        try:
            is_imported = process.stdout.readline()
            importing.cancel()
            if not is_imported:
                raise MissingRequirementError(
                    f"--ray: Ray cannot be imported, or that takes more than {_IMPORT_S:g} s",
                    hint='python -c "import ray" shows why',
                )
            reason, _ = process.communicate(timeout=_ANSWER_S)
            code = process.returncode
        except subprocess.TimeoutExpired:
            pass
        finally:
            importing.cancel()
            process.kill()
    if code == 0:
        return
    reason = " ".join(reason.split())
    if "ersion mismatch" in reason:
        raise ConfigurationError(
            f"--ray {address}: {reason}",
            hint="install the cluster's versions of Ray and Python on this machine",
        )
    raise _no_answer(address, reason)


def _no_answer(address: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"--ray {address} does not answer{f': {reason}' if reason else ''}",
        hint="give HOST:PORT of the head node (the port is 6379 by default), and run timmx on a node of the cluster: "
        "ray status shows whether this machine is one",
    )
