"""Opening what other people's parsers read: first in a process that may die of it.

A damaged program or file of weights may end the process that reads it, or never come to an end.
So a child process reads both, and lowers and compiles the program, with limits of time and memory;
what it survived is read here too. A program that somebody else wrote computes in a child as well.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from paretax.errors import UsageError, described, shortened, shown
from paretax.results.manifest import PROGRAM, WEIGHTS, BrokenBundleError, digest

_SECONDS = 300  # of the child, by the clock
_AN_EXAMPLE = 0.1  # seconds more that it may compute
_MEMORY = 64 * 2**30  # bytes of address space; XLA reserves much and uses little

_written: set[str] = set()  # digests of bundles that this process wrote
_opened: set[str] = set()  # and of those whose child lived


def wrote(folder: Path) -> None:
    """Note that this process has written a bundle: what reads it here needs no child."""
    _written.add(digest(folder))


def is_own(folder: Path) -> bool:
    """Whether this process has written a bundle, as it is now."""
    return digest(folder) in _written


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
    if known in _written | _opened:
        return
    # Every bundle's program is for the CPU too, and whoever asks may hold all of a device's memory.
    said = _child({"folder": str(folder), "then": then}, _SECONDS, "cpu")
    if "usage" in said:
        raise UsageError(said["usage"])
    if "broken" in said:
        raise BrokenBundleError(said["broken"])
    _opened.add(known)


def outputs_apart(folder: Path, inputs: np.ndarray) -> np.ndarray:
    """What a bundle's program gives, computed in a child process on this process' platform.

    Args:
        folder: of the bundle, which `check_opens` has passed.
        inputs: array (examples, ...).

    Returns:
        Array (examples, ...).

    Raises:
        BrokenBundleError: it did not come to an end within five minutes and a tenth of a second an
            example, or the child did not survive it.
    """
    import jax
    from safetensors.numpy import load_file, save_file

    seconds = _SECONDS + round(_AN_EXAMPLE * len(inputs))
    with tempfile.TemporaryDirectory() as place:
        files = {"inputs": f"{place}/inputs", "outputs": f"{place}/outputs"}
        save_file({"": np.ascontiguousarray(inputs)}, files["inputs"])
        said = _child({"folder": str(folder), **files}, seconds, jax.default_backend())
        if "broken" in said:
            raise BrokenBundleError(said["broken"])
        outputs: np.ndarray = load_file(files["outputs"])[""]
    return outputs


def _child(given: dict[str, Any], seconds: int, platform: str) -> dict[str, str]:
    """What a child process says that reads a bundle, or computes with it.

    Raises:
        BrokenBundleError: it said nothing, or not in time.
    """
    command = [sys.executable, "-P", "-c", "from paretax.results.opening import main; main()"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "JAX_PLATFORMS": {"gpu": "cuda"}.get(platform, platform),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # whoever asks holds most of a device's memory
    }
    computes = "computed" if "inputs" in given else "read"
    try:
        done = subprocess.run(
            command,
            input=json.dumps({**given, "seconds": seconds}),
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BrokenBundleError(f"its program was not {computes} within {seconds} s") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise BrokenBundleError(f"whoever reads {PROGRAM} and {WEIGHTS} is ended by {name}")
    try:
        said: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = shortened(" ".join(done.stderr.split())[-200:])
        raise BrokenBundleError(f"{PROGRAM} and {WEIGHTS} cannot be {computes}: {last}") from None
    return said


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
    """The child: reads a bundle, or computes; and prints in a line of JSON what came of it."""
    given = json.loads(sys.stdin.read())
    if os.environ["JAX_PLATFORMS"] == "cpu":  # drivers of devices reserve more, and use little
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cores = os.cpu_count() or 1
    resource.setrlimit(resource.RLIMIT_CPU, (cores * given["seconds"],) * 2)
    folder = Path(given["folder"])
    try:
        if "inputs" in given:
            _compute(folder, given["inputs"], given["outputs"])
        else:
            _open(folder, given["then"])
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


def _compute(folder: Path, inputs: str, outputs: str) -> None:
    from safetensors.numpy import load_file, save_file

    from paretax.results.bundle import read_bundle

    given = load_file(inputs)[""]
    save_file({"": np.ascontiguousarray(read_bundle(folder)(given))}, outputs)
