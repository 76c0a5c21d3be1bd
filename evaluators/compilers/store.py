"""Compiled programs on disk, for all workers and all runs of this user."""

from __future__ import annotations

import gzip
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from paretax.evaluators.compilers.portable import PortableProgram
from paretax.evaluators.compilers.program import CompiledProgram
from paretax.evaluators.runtime import cache_folder

_FINGERPRINT = re.compile(r"[0-9a-f]{24}")


class Store:
    """A folder of compiled programs.

    A file is written aside and moved into place, so that a reader never sees half of one. Where
    the folder cannot be written, programs are compiled again.

    Args:
        folder: where; None: `compiled` in paretax's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_folder("compiled")

    def get(self, key: str, fingerprint: str, with_text: bool = False) -> CompiledProgram | None:
        """A program that was kept; None where there is none.

        Args:
            key: of the compiler's settings.
            fingerprint: of the program.
            with_text: whether the optimised text is needed too.
        """
        path = self._path(key, fingerprint)
        try:
            plain = json.loads(path.read_text("utf-8"))
            text = (
                gzip.decompress(path.with_suffix(".gz").read_bytes()).decode() if with_text else ""
            )
            return CompiledProgram.from_json(plain, text)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None  # of another version, or damaged: it is compiled and written again

    def has(self, key: str, fingerprint: str) -> bool:
        """Whether a program is there; it may turn out to be damaged."""
        return self._path(key, fingerprint).is_file()

    def fingerprint(self, program: PortableProgram) -> str:
        """A program's fingerprint, which is noted for its graph: lowering takes longer.

        There is no note where a part of the graph cannot be seen.
        """
        if program.graph is None:
            return program.fingerprint
        path = self._folder / "graphs" / program.graph
        noted = _text_of(path)
        if _FINGERPRINT.fullmatch(noted):
            return noted
        self._keep({path: program.fingerprint.encode()})
        return program.fingerprint

    def put(self, key: str, program: CompiledProgram) -> None:
        """Keep a program."""
        path = self._path(key, program.fingerprint)
        text = gzip.compress(program.text.encode(), 3)
        self._keep({path.with_suffix(".gz"): text, path: json.dumps(program.to_json()).encode()})

    def _keep(self, files: Mapping[Path, bytes]) -> None:
        """Write what fits; where nothing can be written, it is made again."""
        try:
            for path, content in files.items():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _replace(path, content)
        except OSError:
            return

    def _path(self, key: str, fingerprint: str) -> Path:
        return self._folder / key / f"{fingerprint}.json"


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    Path(name).replace(path)


def _text_of(path: Path) -> str:
    """What is in a small file; nothing where it is not there, or is no text."""
    try:
        return path.read_text("ascii")
    except (OSError, ValueError):
        return ""
