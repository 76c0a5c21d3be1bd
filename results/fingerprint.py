"""What a run's figures are of: the fingerprint of its data and of its task's code.

Trials of two data sets do not compare, and neither do those of two versions of a task. So a run
notes what it began with, and whatever goes on with it later is held against that.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import json
import sys
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from paretax.errors import UsageError
from paretax.evaluators import Workbench
from paretax.evaluators.runtime import versions
from paretax.tasks import BUILT_IN, Data, Task

Fingerprint = Mapping[str, Any]
"""`data`: SHA-256 of each split's inputs and targets; `code`: of each of the user's files that the
task is made of; `defaults` and `metric` of the task. Plain, as the journal holds it."""


def fingerprint(bench: Workbench, name: str, search_path: Iterable[Path]) -> dict[str, Any]:
    """The fingerprint of a task.

    Args:
        bench: the task, with its data.
        name: in the config: a built-in one, or `module:attribute`.
        search_path: folders of the user's own modules.
    """
    task = bench.task
    defaults = json.dumps(dict(task.defaults), sort_keys=True, default=_plain)
    return {
        "data": data_fingerprint(bench.data),
        "code": code_fingerprint(task, name, search_path),
        "defaults": hashlib.sha256(defaults.encode()).hexdigest(),
        "metric": f"{task.metric.name}, {task.metric.direction}",
    }


def _plain(value: Any) -> Any:
    """What stands for a value that JSON does not have."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else type(value).__name__


def data_fingerprint(data: Data) -> dict[str, str]:
    """SHA-256 of dtype, shape and bytes of every array, by split and side."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        f"{name} {side}": _of_arrays(getattr(split, side))
        for name, split in splits.items()
        for side in ("inputs", "targets")
    }


def _of_arrays(tree: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.asarray(array, order="C").tobytes())
    return digest.hexdigest()


def code_fingerprint(task: Task, name: str, search_path: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of the source of each file that a task is made of, comments and blank lines aside.

    These are the file of the task's module, and of each module that it imports from the folders
    of the search path or from beside it, and so on. Packages that are installed are not read. A
    built-in task is paretax's own, by its version. Of a script that is run, or a notebook, only
    what the task's functions use is read: the rest of it drives the search.
    """
    if name in BUILT_IN or name.startswith("paretax."):
        return {"paretax": versions().get("paretax", "")}
    module = sys.modules.get(name.partition(":")[0])
    if module is None or module.__name__ == "__main__" or not getattr(module, "__file__", None):
        return {"the task's functions": _of_functions(task)}
    file = Path(str(module.__file__)).resolve()
    root = file.parents[len(module.__name__.split(".")) - (file.name != "__init__.py")]
    folders = tuple(dict.fromkeys((root, *(Path(p).resolve() for p in search_path))))
    found: dict[Path, str] = {}
    waiting = [(file, module.__name__)]
    while waiting:
        path, dotted = waiting.pop()
        if path in found or path.suffix != ".py":
            continue
        source = path.read_bytes()
        found[path] = hashlib.sha256(_without_comments(source)).hexdigest()
        for imported in _imports(source, dotted, path.name == "__init__.py"):
            waiting += [(p, imported) for p in [_locate(imported, folders)] if p is not None]
    return {_shown(path, folders): digest for path, digest in sorted(found.items())}


def _shown(path: Path, folders: Sequence[Path]) -> str:
    """A file by its place in the first folder that holds it, which is the same on any machine."""
    return next(str(path.relative_to(f)) for f in folders if path.is_relative_to(f))


def _locate(dotted: str, folders: Sequence[Path]) -> Path | None:
    """The file of a module in one of the folders; None where it is none of the user's."""
    loaded = getattr(sys.modules.get(dotted), "__file__", None)
    parts = dotted.split(".")
    for folder in folders:
        if not {"site-packages", "dist-packages"}.isdisjoint(folder.parts):
            continue
        place = folder.joinpath(*parts)
        for path in (place / "__init__.py", place.with_name(f"{parts[-1]}.py")):
            if path.is_file() and loaded in (None, str(path), str(path.resolve())):
                return path.resolve()
    return None


def _imports(source: bytes, dotted: str, is_package: bool) -> Iterator[str]:
    """The absolute names of all modules that a file may import, each with the packages above it."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = dotted.split(".")[: None if is_package and node.level == 1 else -node.level]
            if is_package and node.level > 1:
                above = dotted.split(".")[: 1 - node.level]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in filter(None, names):
            parts = name.split(".")
            yield from (".".join(parts[:i]) for i in range(1, len(parts) + 1))


def _without_comments(source: bytes) -> bytes:
    """A file without comments and blank lines, which change nothing that it does."""
    lines = source.decode("utf-8", "replace").splitlines()
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
    except (tokenize.TokenError, SyntaxError):
        return source
    return "\n".join(line.rstrip() for line in lines if line.strip()).encode()


def _of_functions(task: Task) -> str:
    """SHA-256 of the source of a task's functions, and of all of their script that they use."""
    digest, seen = hashlib.sha256(), set[int]()
    waiting: list[Any] = [task.data, task.build, task.loss, task.metric.compute, type(task)]
    waiting += [v for _, v in sorted(getattr(task, "__dict__", {}).items())]
    while waiting:
        used = waiting.pop(0)
        used = inspect.unwrap(getattr(used, "func", getattr(used, "__func__", used)))
        if id(used) in seen or not callable(used) or not _is_own(used):
            continue
        seen.add(id(used))
        digest.update(_source(used).encode())
        functions = [v for _, v in sorted(vars(used).items())] if inspect.isclass(used) else [used]
        for function in filter(inspect.isfunction, functions):
            around = inspect.getclosurevars(function)
            for name, value in sorted({**around.globals, **around.nonlocals}.items()):
                waiting.append(value)
                if isinstance(value, bool | int | float | str | tuple | list | dict):
                    digest.update(f"{name}={value!r}".encode())
    return digest.hexdigest()


def _is_own(value: Callable[..., Any]) -> bool:
    """Whether a function or class is of the user's script or notebook, not of a package."""
    return getattr(value, "__module__", None) == "__main__"


def _source(value: Any) -> str:
    """The source of a function or class; its bytecode where a session keeps no source."""
    try:
        source = textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError):
        code = getattr(value, "__code__", None)
        return value.__qualname__ if code is None else f"{code.co_code.hex()} {code.co_names}"
    return _without_comments(source.encode()).decode()


def differences(then: Fingerprint, now: Fingerprint) -> list[str]:
    """What two fingerprints do not share, in words; empty where they are the same."""
    found = []
    for part, words in (("data", ""), ("code", "the code in ")):
        before, after = then.get(part, {}), now.get(part, {})
        keys = [*before, *(k for k in after if k not in before)]
        found += [f"{words}{k}" for k in keys if before.get(k) != after.get(k)]
    found += [
        f"the task's {part}" for part in ("defaults", "metric") if then.get(part) != now.get(part)
    ]
    return found


def check_fingerprint(
    folder: Path, then: Fingerprint | None, now: Fingerprint, *, insist: bool
) -> list[str]:
    """Refuse to go on with a run on other data or with other code.

    Args:
        folder: of the run.
        then: what the journal holds; None in those of earlier versions, which go with anything.
        now: of what is there.
        insist: go on all the same.

    Returns:
        What differs, in words.

    Raises:
        UsageError: something differs, and nobody insists.
    """
    changed = [] if then is None else differences(then, now)
    if changed and not insist:
        raise UsageError(
            f"the run {str(folder)!r} was made with other data or code, so the figures would not "
            f"compare; different are: {', '.join(changed)}. Bring back what was changed, start a "
            "new run, or insist with --force-data"
        )
    return changed
