"""Opening what other people's parsers read: first in a process that may die of it.

A damaged program or file of weights may end the process that reads it, or never come to an end.
So a child process reads both, and lowers and compiles the program, with limits of time and memory;
what it survived is read here too.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

from paretax.errors import UsageError, described, shortened, shown
from paretax.results.manifest import PROGRAM, WEIGHTS, BrokenBundleError, digest

_SECONDS = 300  # of the child, by the clock
_MEMORY = 64 * 2**30  # bytes of address space; XLA reserves much and uses little

_opened: set[str] = set()  # digests of bundles that this process wrote, or whose child lived


def wrote(folder: Path) -> None:
    """Note that this process has written a bundle: what reads it here needs no child."""
    _opened.add(digest(folder))


def check_opens(folder: Path, then: dict[str, str]) -> None:
    """Open a bundle's program and weights in a child process, if this one has not written them.

    Args:
        folder: of the bundle; its files match their checksums.
        then: versions by package where it was written.

    Raises:
        UsageError: it was written by a JAX that cannot be read here.
        BrokenBundleError: they cannot be read, or the child did not survive it.
    """
    known = digest(folder)
    if known in _opened:
        return
    command = [sys.executable, "-P", "-c", "from paretax.results.opening import main; main()"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "JAX_PLATFORMS": "cpu",  # every bundle's program is for it too, and whoever asks may hold
        # all of a device's memory
    }
    given = json.dumps({"folder": str(folder), "then": then})
    try:
        done = subprocess.run(
            command,
            input=given,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BrokenBundleError(f"its program was not read within {_SECONDS} s") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise BrokenBundleError(f"whoever reads {PROGRAM} and {WEIGHTS} is ended by {name}")
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = shortened(" ".join(done.stderr.split())[-200:])
        raise BrokenBundleError(f"{PROGRAM} and {WEIGHTS} cannot be read: {last}") from None
    if "usage" in said:
        raise UsageError(said["usage"])
    if "broken" in said:
        raise BrokenBundleError(said["broken"])
    _opened.add(known)


_CALLED = re.compile(r'stablehlo\.custom_call\s*@(?:"((?:[^"\\]|\\.)*)"|([\w.$-]+))')
_ITSELF = re.compile(
    r"(lapack_|cu|hip|stablehlo\.|mhlo\.|xla\.sdy\.)\w+|Sharding|SPMD\w+|shape_assertion|Eigh|Qr"
    r"|LuDecomposition|ProductOfElementaryHouseholderReflectors|ApproxTopK|AllocateBuffer"
    r"|annotate_device_placement|tpu_custom_call|mosaic_gpu_v2"
)
"""What XLA computes by itself, of all that `jax.export` writes: no code of the caller's process."""


def check_calls(text: str) -> None:
    """Refuse a program that calls code of the process that runs it, such as a Python function.

    `jax.export` writes none; where one stands, it was put there, and names a place in memory.

    Args:
        text: of the program, in StableHLO.

    Raises:
        BrokenBundleError: names what it calls.
    """
    called = [quoted or plain for quoted, plain in _CALLED.findall(text)]
    for name in called:
        if not _ITSELF.fullmatch(name):
            raise BrokenBundleError(f"its program calls {shown(name)} of whoever runs it")
    if text.count("stablehlo.custom_call") != len(called):
        raise BrokenBundleError("its program calls what cannot be read")


def main() -> None:
    """The child: reads a bundle, and prints in a line of JSON what came of it."""
    given = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    try:
        _open(Path(given["folder"]), given["then"])
    except UsageError as error:
        said = {"usage": str(error)}
    except BrokenBundleError as error:
        said = {"broken": str(error)}
    except Exception as error:  # noqa: BLE001  whatever a parser raises, the bundle is broken
        said = {"broken": f"its program or its weights cannot be read: {described(error)}"}
    else:
        said = {}
    print(json.dumps(said))


def _open(folder: Path, then: dict[str, str]) -> None:
    import jax
    from safetensors.numpy import load_file

    from paretax.results.releases import read_program

    load_file(folder / WEIGHTS)
    program = read_program((folder / PROGRAM).read_bytes(), str(folder), then)
    check_calls(program.mlir_module())
    if "cpu" not in program.platforms:
        return
    shapes = [  # the number of examples may be any
        jax.ShapeDtypeStruct(tuple(n if isinstance(n, int) else 2 for n in a.shape), a.dtype)
        for a in program.in_avals
    ]
    arguments, keywords = jax.tree.unflatten(program.in_tree, shapes)
    jax.jit(program.call).lower(*arguments, **keywords).compile()
