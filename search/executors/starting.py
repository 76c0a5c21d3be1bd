"""Starting Ray on this machine, or finding a cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from paretax.errors import UsageError
from paretax.evaluators.runtime import apply_worker_environment
from paretax.tasks.loading import OBJECT

_PRINTED = 16 * 2**20  # bytes that are kept of what a worker prints, and as many of before


def start_ray(*, address: str | None, cpus: int, task: str) -> None:
    """Start Ray on this machine, or join a running cluster.

    Args:
        address: of the cluster; None: this machine.
        cpus: that Ray gives out on this machine.
        task: name of the task; a cluster gets the user's module.

    Raises:
        UsageError: there is no such cluster, or Ray cannot write its temporary files.
    """
    apply_worker_environment()  # which workers on this machine inherit
    logging.getLogger("ray").setLevel(logging.ERROR)
    settings: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "namespace": "paretax",
    }
    with _signals_kept(), warnings.catch_warnings():
        # JAX warns of any fork in its process; Ray forks only to start programs at once.
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        if address is None:
            _check_temporary_folder()
            # Ray makes its workers yield (nice 15) to all else: on a busy machine they would
            # hardly start, and what they measure would be of that.
            os.environ.setdefault("RAY_worker_niceness", "0")
            # What workers print is kept in files, and a task may print without end.
            os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(_PRINTED))
            os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "1")
            ray.init(address="local", num_cpus=cpus, **settings)
            return
        try:
            _check_reachable(address)
            modules = _modules(task)
            sent = {"py_modules": modules} if modules else {}  # Ray stumbles over an empty list
            ray.init(address=address, runtime_env=sent, **settings)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"there is no Ray cluster at {address!r} ({error}): "
                "start one with `ray start --head`, or leave out --address"
            ) from error


def _modules(task: str) -> list[str]:
    """A user's own module or package, to be sent to the machines of a cluster."""
    module, _, attribute = task.partition(":")
    top = module.partition(".")[0]
    none = not attribute or top in ("paretax", "__main__", OBJECT.rstrip(":"))
    found = None if none else importlib.util.find_spec(top)
    if found is None or found.origin is None:
        return []
    path = Path(found.origin)
    return [str(path.parent if path.name == "__init__.py" else path)]


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back what SIGTERM does: Ray's own way ends the process with a stack of C++.

    One that arrives while Ray starts is Ray's to handle, which exits with its number: it is sent
    again.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    told_to_end = False
    try:
        yield
    except SystemExit as error:
        if error.code != signal.SIGTERM:
            raise
        told_to_end = True
    finally:
        if main and before is not None:
            signal.signal(signal.SIGTERM, before)
    if told_to_end:
        signal.raise_signal(signal.SIGTERM)


def _check_temporary_folder() -> None:
    """Refuse a folder of temporary files whose name Ray cannot write.

    Raises:
        UsageError: names it.
    """
    place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if not place.isascii():
        raise UsageError(
            f"Ray's temporary files must lie in a folder with an ASCII name, got {place!r}: set "
            "TMPDIR or RAY_TMPDIR to another one, or `executor: inline`"
        )


def _check_reachable(address: str) -> None:
    """Try a plain host:port first: Ray itself tries for minutes, and then ends the process.

    Raises:
        OSError: nothing listens there.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()
