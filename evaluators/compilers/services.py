"""The compiler processes of this process: started when first needed, one a platform."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretax.evaluators.compilers.program import CompiledProgram, CompileError
from paretax.evaluators.compilers.service import ENVIRONMENT, read_message, write_message

_LOG_END = 4096  # bytes of a process's log, of which the last lines are told


class Service:
    """One compiler process; one request at a time.

    A process that dies fails the request that it had, and the next request starts another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: int | None = None

    def compile(
        self, exported: bytes, settings: Mapping[str, Any], fingerprint: str
    ) -> CompiledProgram:
        """Compile a program.

        Raises:
            CompileError: the compiler refused it, or died of it.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                request = {"settings": dict(settings), "fingerprint": fingerprint}
                write_message(process.stdin, request, exported)
                answer, text = read_message(process.stdout)
            except (EOFError, OSError):
                code = self._end()
                raise CompileError(
                    f"the compiler's process ended with {code}: {self._last_words()}"
                ) from None
        if "error" in answer:
            raise CompileError(str(answer["error"]))
        return CompiledProgram.from_json(answer["program"], text.decode())

    def start(self) -> None:
        """Have the process ready, so that a first request need not wait for it."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()
            self._close_log()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._close_log()
        self._log, name = tempfile.mkstemp()
        Path(name).unlink()  # it lives as long as it is open
        # What this process was told of its own devices and dumps does not concern the compiler's.
        inherited = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NPROC")}
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "paretax.evaluators.compilers.service"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**inherited, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(str, _paths()))},
        )
        try:
            assert process.stdout is not None
            read_message(process.stdout)
        except EOFError:
            code = self._end()
            raise CompileError(
                f"the compiler's process did not start ({code}): {self._last_words()}"
            ) from None
        return process

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # it died with a request unread
        try:
            return process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _close_log(self) -> None:
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def _last_words(self) -> str:
        """The end of what the process logged."""
        if self._log is None:
            return ""
        size = os.fstat(self._log).st_size
        log = os.pread(self._log, _LOG_END, max(0, size - _LOG_END))
        lines = log.decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "it said nothing"


def _paths() -> list[Path]:
    """Where this process finds its modules; the child needs the same."""
    return [Path(p) for p in sys.path if p and Path(p).exists()]


_SERVICES: dict[str, Service] = {}
_GUARD = threading.Lock()


def service(platform: str) -> Service:
    """The process of this platform's compiler."""
    with _GUARD:
        if platform not in _SERVICES:
            _SERVICES[platform] = Service()
        return _SERVICES[platform]


@atexit.register
def close_services() -> None:
    """End all compiler processes."""
    for each in _SERVICES.values():
        each.close()
