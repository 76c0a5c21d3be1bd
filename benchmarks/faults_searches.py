"""Searches that are killed, stopped and let down, and what must hold of each afterwards."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from paretax.errors import UsageError
from paretax.results import Run

CLI = [sys.executable, "-c", "from paretax.cli import program; program()"]
END = 10.0  # seconds that a search has to end in, once it was told to, or cannot go on
HELPERS = 5.0  # seconds after which nothing may be left of a search that has ended
WHOLE = 300.0  # seconds for a search; an undisturbed one takes about 15
CONFIG: dict[str, Any] = {
    "task": "breast_cancer",
    "objectives": ["accuracy", "size", "memory"],
    "space": {
        "width": {"type": "ordinal", "choices": [4, 8]},
        "depth": 1,
        "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True},
        "epochs": {"type": "int", "low": 2, "high": 8},
        "quantize": {"type": "categorical", "choices": [False, True]},
    },
    "budget": {"trials": 40},
    "batch": 8,
    "final_seeds": 2,
    "workers": 2,
}


@dataclass
class Account:
    """What was done, and what must not have come of it."""

    kills: int = 0
    lost: int = 0
    duplicates: int = 0
    front_differs: int = 0
    tracebacks: int = 0
    hangs: int = 0
    believed: int = 0
    code_runs: int = 0
    done: Counter[str] = field(default_factory=Counter)

    def fault(self, kind: str, words: str) -> None:
        """Count what must not be, and print it."""
        setattr(self, kind, getattr(self, kind) + 1)
        print(f"{kind.upper()}: {' '.join(words.split())[:500]}", flush=True)


class Searching:
    """A search in a process of its own, in a folder of its own.

    Args:
        folder: for its config, its run, and what it says.
        executor: "inline" or "ray".
        more: of the command line.
        before: runs in the child before all else; None: nothing.
        changes: of the config.
    """

    def __init__(
        self,
        folder: Path,
        executor: str,
        *more: str,
        before: Callable[[], None] | None = None,
        **changes: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.run = folder, folder / "run"
        self.journal = self.run / "journal.jsonl"
        self._said = folder / "said.txt"
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(CONFIG | {"executor": executor} | changes), "utf-8")
        self.began = time.monotonic()
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [*CLI, "search", str(config), "--out", str(self.run), *more],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                preexec_fn=before,
            )
        self.family: dict[int, psutil.Process] = {}

    @property
    def said(self) -> str:
        """All that it has printed."""
        return self._said.read_text("utf-8", "replace")

    def events(self) -> int:
        """Lines of its journal."""
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def look(self) -> list[psutil.Process]:
        """Its helpers at this moment; all that were ever seen are remembered."""
        found = []
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children(recursive=True)
        self.family |= {p.pid: p for p in found}
        return found

    def wait_until(self, moment: Callable[[], bool], most: float) -> None:
        """Until something is so, or the search has ended."""
        end = time.monotonic() + most
        while not moment() and self.process.poll() is None and time.monotonic() < end:
            self.look()
            time.sleep(0.02)

    def ended(self, within: float) -> bool:
        """Whether it ends in time; it is killed where it does not."""
        self.wait_until(lambda: False, within)
        if self.process.poll() is not None:
            return True
        self.process.kill()
        self.process.wait()
        return False

    def left(self, within: float = HELPERS) -> list[str]:
        """Helpers that outlive it by some seconds; they are killed."""
        end = time.monotonic() + within
        while (alive := [p for p in self.family.values() if _lives(p)]) and time.monotonic() < end:
            time.sleep(0.1)
        names = [_name(p) for p in alive]
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return names


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:60] or process.name()
    except psutil.NoSuchProcess:
        return "?"


class Judge:
    """Holds what is left of a search against one that nobody disturbed.

    Args:
        folder: for searches.
        account: where faults are counted.
    """

    def __init__(self, folder: Path, account: Account) -> None:
        self.folder, self.account = folder, account
        self._fronts: dict[str, Any] = {}
        self._seconds: dict[str, float] = {}

    def undisturbed(self, executor: str) -> tuple[Any, float]:
        """Front of a search that nobody disturbs, and its seconds."""
        if executor not in self._fronts:
            Searching(self.folder / f"warm-{executor}", executor).ended(WHOLE)  # compiles
            whole = Searching(self.folder / f"whole-{executor}", executor)
            if not whole.ended(WHOLE) or whole.process.returncode != 0:
                raise SystemExit(f"a search that nobody disturbs does not end well: {whole.said}")
            self._seconds[executor] = time.monotonic() - whole.began
            self._fronts[executor] = front(whole.run)
        return self._fronts[executor], self._seconds[executor]

    def check_words(self, search: Searching, what: str, codes: Sequence[int]) -> None:
        """It ended as it must: no traceback, one of these codes."""
        words = f"{what}: rc {search.process.returncode}: {search.said[-400:]}"
        stack = "Traceback (most recent" in search.said or "*** SIG" in search.said
        if stack or search.process.returncode not in codes:
            self.account.fault("tracebacks", words)

    def check_left(self, search: Searching, what: str) -> None:
        """Nothing of it is left."""
        if left := search.left():
            self.account.fault("hangs", f"{what}: {HELPERS:.0f} s later there was still {left}")

    def go_on(self, search: Searching, executor: str, what: str) -> None:
        """Resume it to its end; all that was there must still be, and the front the same."""
        before = search.journal.read_bytes() if search.journal.exists() else b""
        again = Searching(search.folder, executor, *(["--resume"] if before else []))
        if not again.ended(WHOLE):
            self.account.fault("hangs", f"{what}: resumed, it does not end: {again.said[-300:]}")
            return
        self.check_words(again, f"{what}, resumed", [0])
        self.check_left(again, f"{what}, resumed")
        whole = before[: before.rfind(b"\n") + 1]  # a line that was being written is no event
        if again.journal.exists() and not again.journal.read_bytes().startswith(whole):
            self.account.fault("lost", f"{what}: events before it are no longer there")
        self.check_run(again.run, executor, what)

    def check_run(self, run: Path, executor: str, what: str) -> None:
        """A whole run: nothing lost, nothing twice, the front of an undisturbed search."""
        expected, _ = self.undisturbed(executor)
        try:
            found = front(run)
        except UsageError as error:
            self.account.fault("lost", f"{what}: the run cannot be read: {error}")
            return
        seen: Counter[tuple[str, int]] = Counter()
        failed = []
        for line in (run / "journal.jsonl").read_text("utf-8").splitlines():
            event = json.loads(line)
            if event.get("event") in ("scored", "trained", "tested"):
                seen[event["event"], event["trial"]] += 1
            if event.get("event") == "asked":
                seen.update(("asked", trial["trial"]) for trial in event["trials"])
            if "failure" in event:
                failed.append(event["failure"]["message"])
        if failed:
            self.account.fault("lost", f"{what}: trials failed: {failed[0]}")
        for (event, trial), count in seen.items():
            if count > 1:
                self.account.fault("duplicates", f"{what}: trial {trial} is {event} {count} times")
        if found != expected:
            self.account.fault("front_differs", f"{what}: {found} for {expected}")


def front(folder: Path) -> Any:
    """The final front with all its values that no clock gives, as plain data."""
    run = Run.open(folder)
    plain = [
        [
            t.number,
            t.candidate.id,
            [[m.objective, m.value] for m in t.measurements if m.objective != "latency"],
        ]
        for t in run.front("cpu")
    ]
    return json.loads(json.dumps(plain))


def drivers(judge: Judge, count: int, rng: random.Random) -> None:
    """Kill the process that searches, at any time of it, twice where it comes to that."""
    for i in range(count):
        executor = ("inline", "inline", "ray")[i % 3]
        _, seconds = judge.undisturbed(executor)
        what = f"driver {i} ({executor})"
        search = Searching(judge.folder / f"driver{i}", executor)
        for kill in range(rng.choice([1, 2])):
            if kill:
                more = ["--resume"] if search.journal.exists() else []
                search = Searching(search.folder, executor, *more)
            moment = search.began + rng.uniform(0.3, 1.0) * seconds
            search.wait_until(lambda end=moment: time.monotonic() >= end, seconds)
            search.look()
            search.process.kill()
            search.process.wait()
            judge.account.kills += 1
            judge.check_left(search, what)
        judge.go_on(search, executor, what)
        judge.account.done["drivers"] += 1


def workers(judge: Judge, count: int, rng: random.Random) -> None:
    """Kill Ray's workers while they train and score; the search must not notice."""
    killed = 0
    while killed < count:
        what = f"workers ({killed} killed before)"
        search = Searching(judge.folder / f"workers{killed}", "ray")
        search.wait_until(lambda s=search: s.events() > 2, WHOLE)
        mine = 0
        while search.process.poll() is None and killed < count and mine < 6:
            actors = [p for p in search.look() if "ray::Actor" in _name(p)]
            if actors:
                rng.choice(actors).kill()
                killed, mine = killed + 1, mine + 1
                judge.account.kills += 1
            pause = time.monotonic() + rng.uniform(0.2, 4.0)
            search.wait_until(lambda end=pause: time.monotonic() >= end, 5)
            if search.events() > 90:
                break
        if not search.ended(WHOLE):
            judge.account.fault("hangs", f"{what}: it does not end: {search.said[-300:]}")
            continue
        judge.check_words(search, what, [0])
        judge.check_left(search, what)
        judge.check_run(search.run, "ray", what)
        judge.account.done["workers"] += 1


def parts_of_ray(judge: Judge, count: int, rng: random.Random) -> None:
    """Kill Ray's raylet or its control store: the search says so, ends, and goes on later."""
    for i in range(count):
        name = ("raylet/raylet", "gcs_server")[i % 2]
        what = f"{name} {i}"
        search = Searching(judge.folder / f"ray{i}", "ray")
        events = rng.randrange(2, 60)
        search.wait_until(lambda s=search, n=events: s.events() > n, WHOLE)
        for process in search.look():
            if name in _name(process) or name in " ".join(process.cmdline()[:1]):
                process.kill()
        judge.account.kills += 1
        if not search.ended(END):
            judge.account.fault("hangs", f"{what}: {END:.0f} s later it goes on")
        judge.check_words(search, what, [0, 1])
        judge.check_left(search, what)
        judge.go_on(search, "ray", what)
        judge.account.done["parts of Ray"] += 1


def nodes(judge: Judge, count: int, rng: random.Random) -> None:
    """Take a machine out of a cluster; the search goes on with the others."""
    from ray.cluster_utils import Cluster

    for i in range(count):
        what = f"node {i}"
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        try:
            other = cluster.add_node(num_cpus=2)
            at = ["--address", cluster.address]
            search = Searching(judge.folder / f"node{i}", "ray", *at, "--workers", "3")
            events = rng.randrange(4, 60)
            search.wait_until(lambda s=search, n=events: s.events() > n, WHOLE)
            cluster.remove_node(other, allow_graceful=False)
            judge.account.kills += 1
            if not search.ended(WHOLE):
                judge.account.fault("hangs", f"{what}: it does not end: {search.said[-300:]}")
                continue
            judge.check_words(search, what, [0])
            judge.check_run(search.run, "ray", what)
            judge.account.done["nodes"] += 1
        finally:
            cluster.shutdown()


SIGNALS: Sequence[tuple[str, Sequence[signal.Signals], Sequence[int]]] = (
    ("SIGTERM", [signal.SIGTERM], [-signal.SIGTERM]),
    ("SIGHUP", [signal.SIGHUP], [-signal.SIGHUP]),
    ("Ctrl-C", [signal.SIGINT], [130]),
    ("Ctrl-C twice", [signal.SIGINT, signal.SIGINT], [130]),
)


def signals(judge: Judge, count: int, rng: random.Random) -> None:
    """End searches by signals, once and twice."""
    for i in range(count):
        executor = ("inline", "ray")[i % 2]
        name, sent, codes = SIGNALS[i // 2 % len(SIGNALS)]
        _, seconds = judge.undisturbed(executor)
        what = f"{name} ({executor}, {i})"
        search = Searching(judge.folder / f"signal{i}", executor)
        moment = search.began + rng.uniform(0.3, 0.9) * seconds
        search.wait_until(lambda end=moment: time.monotonic() >= end, seconds)
        search.look()
        for number in sent:
            search.process.send_signal(number)
            time.sleep(rng.uniform(0.02, 0.4))
        if not search.ended(END):
            judge.account.fault("hangs", f"{what}: {END:.0f} s later it goes on")
        judge.check_words(search, what, [0, *codes])  # it may have been done
        judge.check_left(search, what)
        if search.process.returncode != 0 and search.journal.exists() and not search.said.strip():
            judge.account.fault("tracebacks", f"{what}: it says nothing")
        judge.go_on(search, executor, what)
        judge.account.done["signals"] += 1


def full_disks(judge: Judge, count: int, rng: random.Random) -> None:
    """Let no file grow beyond some size, which is what a full disk does to the journal."""
    import resource

    expected = (judge.folder / "whole-inline" / "run" / "journal.jsonl").stat().st_size
    for i in range(count):
        room = rng.randrange(1000, expected)
        what = f"a disk that is full after {room} bytes"

        def limit(room: int = room) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

        environment = os.environ.get("PARETAX_CACHE")
        os.environ["PARETAX_CACHE"] = str(judge.folder / f"cache-full{i}")
        search = Searching(judge.folder / f"full{i}", "inline", before=limit)
        if environment is not None:
            os.environ["PARETAX_CACHE"] = environment
        if not search.ended(WHOLE):
            judge.account.fault("hangs", f"{what}: it does not end")
        judge.check_words(search, what, [1])
        judge.go_on(search, "inline", what)
        judge.account.done["full disks"] += 1


def places(judge: Judge, count: int, rng: random.Random) -> None:
    """Folders that no run can be written to."""
    taken = judge.folder / "taken"
    taken.write_text("")
    for i in range(count):
        out = rng.choice([taken, taken / "below", Path("/proc/run"), Path("/sys/run")])
        what = f"--out {out}"
        search = Searching(judge.folder / f"place{i}", "inline", "--out", str(out))
        if not search.ended(END * 2):
            judge.account.fault("hangs", f"{what}: it does not end")
        judge.check_words(search, what, [2])
        judge.account.done["places"] += 1
