"""Tasks that do their worst: each deed costs its own trial, by name, and no other one."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

from faults_searches import WHOLE, Account, Judge, Searching

SECONDS = 20  # that a trial may take

PROCESS: dict[str, str] = {
    "os._exit(0)": "os._exit(0)",
    "os._exit(3)": "os._exit(3)",
    "abort": "os.abort()",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(600)",
    "SIGSEGV": "ctypes.string_at(0)",
    "SIGBUS": "os.kill(os.getpid(), signal.SIGBUS)",
    "alarm": "signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(600)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "sleeps": "time.sleep(10**6)",
    "loops": "exec('while True: pass')",
    "keeps the lock": "re.match('(a+)+b', 'a' * 40)",
    "prints without end": "exec('while True: print(chr(120) * 1000)')",
    "closes files": "os.closerange(3, 200)",
}
"""What no process survives, or never ends: on Ray's workers only."""

RAISED: dict[str, str] = {
    "ValueError": "raise ValueError('no')",
    "own exception": "raise type('Odd', (Exception,), {})()",
    "own BaseException": "raise type('Worse', (BaseException,), {})('no')",
    "no words": "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "a megabyte of words": "raise ValueError('x' * 2**20)",
    "terminal codes": r"raise ValueError('\x1b[2J\x07<script>')",
    "many lines": r"raise ValueError('a\n' * 500)",
    "SystemExit(0)": "raise SystemExit(0)",
    "SystemExit": "raise SystemExit('bye')",
    "GeneratorExit": "raise GeneratorExit",
    "StopIteration": "raise StopIteration",
    "StopAsyncIteration": "raise StopAsyncIteration",
    "ExceptionGroup": "raise ExceptionGroup('several', [ValueError('a'), KeyError('b')])",
    "a cause without end": "raise ValueError('a') from ValueError('b')",
    "recursion": "(lambda f: f(f))(lambda f: f(f))",
    "MemoryError": "np.zeros(2**60, np.uint8)",
    "AssertionError": "assert False",
    "OSError": "open('/nowhere/at/all')",
    "full disk": "raise OSError(28, 'No space left on device')",
    "closed pipe": "raise BrokenPipeError",
    "unpicklable": "raise type('Held', (Exception,), {})(lambda: 0, open(os.devnull))",
    "UnicodeError": r"'\udc80'.encode()",
    "surrogates": r"raise ValueError('\udc80\ud800')",
    "no model": "return None",
    "a string": "return 'model'",
    "a class": "return type('M', (), {})",
    "wrong shape": "return lambda x: x[:, :1, None]",
    "NaN": "return lambda x: x[:, :2] * float('nan')",
    "import": "import nothing_of_this_name",
    "ZeroDivisionError": "1 / 0",
}
"""What Python can say of itself: on Ray's workers, and in the driver's process."""

HARMLESS: dict[str, str] = {
    "threads": "[threading.Thread(target=time.sleep, args=(10**6,), daemon=True).start() "
    "for _ in range(50)]",
    "open files": "KEPT.extend(open(os.devnull) for _ in range(200))",
    "working folder": "os.chdir('/')",
    "no garbage collection": "gc.disable()",
    "warnings": "warnings.warn('x' * 10**5)",
    "prints": r"print('\x1b[2J' * 10**5)",
    "a closed stdout": "sys.stdout is None or sys.stdout.close()",
    "no stdout": "sys.stdout = None",
}
"""What is odd and does no harm to a search: it must end as if nothing were."""

TASK = """
import ctypes, gc, os, re, signal, sys, threading, time, warnings
import numpy as np
import paretax, ray
from paretax.tasks.breast_cancer import _build, _load
KEPT = []
# The driver reads the model's parameters too, before the first trial: there it behaves.
BEHAVES = {behaves} and not ray.is_initialized()
def build(config, rngs, inputs):
    deed = "none" if BEHAVES else config["deed"]
    {deeds}
    return _build({{"width": 4, "depth": 1}}, rngs, inputs)
task = paretax.classification("hostile", load=_load, build=build, defaults={{"deed": "none"}})
"""


def hostile(judge: Judge, count: int, rng: random.Random) -> None:
    """Search over tasks that misbehave, on Ray and in the driver's process."""
    account = judge.account
    shares = {"ray": [*PROCESS, *RAISED, *HARMLESS], "inline": [*RAISED, *HARMLESS]}
    for executor, names in shares.items():
        most = count - count // 3 if executor == "ray" else count // 3
        kinds = [PROCESS, RAISED, HARMLESS]
        chosen = _some([[n for n in k if n in names] for k in kinds], most, rng)
        _search(judge.folder / f"hostile-{executor}", executor, chosen, account)


def _some(kinds: Sequence[Sequence[str]], count: int, rng: random.Random) -> list[str]:
    """Deeds of all kinds, in turn."""
    shuffled = [rng.sample(kind, len(kind)) for kind in kinds]
    found: list[str] = []
    while len(found) < count and any(shuffled):
        found += [kind.pop() for kind in shuffled if kind]
    return found[:count]


def _search(folder: Path, executor: str, deeds: Sequence[str], account: Account) -> None:
    folder.mkdir(parents=True)
    everything = PROCESS | RAISED | HARMLESS
    lines = [f"if deed == {d!r}: {everything[d]}" for d in deeds]
    text = TASK.format(behaves=executor == "ray", deeds="\n    ".join(lines))
    (folder / "hostile.py").write_text(text, "utf-8")
    began = time.monotonic()
    search = Searching(
        folder,
        executor,
        task="hostile:task",
        space={"deed": {"type": "categorical", "choices": ["none", *deeds]}, "epochs": 2},
        baseline={"deed": "none"},
        sampler="grid",
        budget={"trials": len(deeds) + 1},
        batch=len(deeds) + 1,
        final_seeds=0,
        trial_seconds=SECONDS,
    )
    what = f"hostile tasks ({executor})"
    if not search.ended(WHOLE * 2):
        account.fault("hangs", f"{what}: it does not end: {search.said[-300:]}")
        return
    if search.process.returncode != 0 or "Traceback" in search.said:
        account.fault("tracebacks", f"{what}: rc {search.process.returncode}: {search.said[-400:]}")
        return
    if left := search.left():
        account.fault("hangs", f"{what}: still there: {left}")
    _judge(search.run, deeds, account, what)
    account.done["hostile tasks"] += len(deeds)
    print(f"{what}: {len(deeds)} in {time.monotonic() - began:.0f} s", flush=True)


def _judge(run: Path, deeds: Sequence[str], account: Account, what: str) -> None:
    from paretax.results import Run

    found = {t.candidate["deed"]: t for t in Run.open(run).trials}
    for deed in ("none", *deeds):
        trial = found.get(deed)
        if trial is None:
            account.fault("lost", f"{what}: {deed!r} was never tried")
        elif deed in ("none", *HARMLESS):
            if trial.failure is not None:
                account.fault("lost", f"{what}: {deed!r} failed: {trial.failure.message}")
        elif trial.failure is None:
            account.fault("believed", f"{what}: {deed!r} has a score")
        elif len(json.dumps(trial.failure.message)) > 1000:
            account.fault("tracebacks", f"{what}: {deed!r}: {len(trial.failure.message)} long")
        else:
            print(f"  {deed}: {trial.failure.reason}: {trial.failure.message[:110]!r}")
