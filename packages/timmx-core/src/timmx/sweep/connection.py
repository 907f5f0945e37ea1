"""Connects this process to a Ray cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from timmx.errors import ConfigurationError, MissingRequirementError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWER_S = 8.0
"""How long a cluster may take to answer, in addition to the import of Ray, which takes 1 s."""


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to a cluster; a connection that exists already is used, and stays.

    Raises:
        MissingRequirementError: Ray is not installed.
        ConfigurationError: the cluster does not answer, or has other versions of Ray or Python.
    """
    if find_spec("ray") is None:
        raise MissingRequirementError(
            "--ray requires Ray, which is not installed", hint='run uv pip install "timmx-core[ray]"'
        )
    if address.startswith("ray://"):
        raise ConfigurationError(
            f"--ray {address}: Ray Client cannot stream results",
            hint="run timmx on a node of the cluster, for example with ray job submit, and use --ray auto",
        )
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
        try:
            process.stdout.readline()
            reason, _ = process.communicate(timeout=_ANSWER_S)
            code = process.returncode
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
    if code == 0:
        return
    reason = " ".join(reason.split())
    if "ersion mismatch" in reason:
        raise ConfigurationError(
            f"--ray {address}: {reason}",
            hint="install the cluster's versions of Ray and Python on this machine",
        )
    raise ConfigurationError(
        f"--ray {address} does not answer{f': {reason}' if reason else ''}",
        hint="give HOST:PORT of the head node (the port is 6379 by default), and run timmx on a node of the cluster: "
        "ray status shows whether this machine is one",
    )
