"""Damages what is kept, and gives what is no good: nothing of it is believed, all ends in one line.

Journals lose, change and swap bytes and lines. Bundles are damaged, and their checksums made again.
Configs and profiles are changed at random. Each kind is drawn from a printed seed. Counted are
those that were believed (the leaderboard, or a figure that `verify` calls checked, is another one),
that end in anything but one clear error, or that take more than ten seconds.

    python benchmarks/faults.py --quick
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import signal
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from faults_searches import CONFIG as SEARCHED
from reporting import ROOT

SEED = 14
LIMIT = 10  # seconds
BITS = {"type": "int", "low": 2, "high": 8, "when": {"quantize": True}}
CONFIG: dict[str, Any] = SEARCHED | {
    "space": SEARCHED["space"] | {"weight_bits": BITS},
    "budget": {"trials": 8},
    "sampler": "random",
    "final_seeds": 1,
    "executor": "inline",
}


class LateError(Exception):
    """It took too long."""


@contextmanager
def in_time() -> Iterator[None]:
    """Raise `LateError` in what takes longer than the limit."""

    def late(number: int, frame: FrameType | None) -> None:
        raise LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(attempt: Callable[[], str]) -> tuple[str, str]:
    """What came of something: "read" and what was read, "refused", "hang" or "traceback"."""
    from paretax.errors import UsageError
    from paretax.results import BrokenBundleError

    try:
        with in_time():
            return "read", attempt()
    except (UsageError, BrokenBundleError) as error:
        words = " ".join(str(error).split())
        return ("refused", words) if len(words) < 2000 else ("traceback", f"too long: {words}")
    except LateError:
        return "hang", ""
    except Exception as error:  # noqa: BLE001  which is what is counted
        return "traceback", f"{type(error).__name__}: {error}"


def damaged(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A file with one damage, and what that is."""
    lines = content.splitlines(keepends=True)
    at, where = rng.randrange(len(content)), rng.randrange(len(lines))
    kind = rng.choice(["bit", "digit", "cut line", "twice", "swapped", "torn", "more", "byte"])
    if kind == "bit":
        changed = bytes([content[at] ^ 1 << rng.randrange(8)])
        return kind, content[:at] + changed + content[at + 1 :]
    if kind == "digit":
        at = rng.choice([i for i, c in enumerate(content) if chr(c).isdigit()])
        digit = rng.choice([d for d in b"0123456789" if d != content[at]])
        return kind, content[:at] + bytes([digit]) + content[at + 1 :]
    if kind == "cut line":
        return kind, b"".join(lines[:where] + lines[where + 1 :])
    if kind == "twice":
        return kind, b"".join([*lines[: where + 1], *lines[where:]])
    if kind == "swapped":
        other = rng.randrange(len(lines))
        lines[where], lines[other] = lines[other], lines[where]
        return kind, b"".join(lines)
    if kind == "torn":
        return kind, content[:at] + content[at + rng.randrange(1, 200) :]
    if kind == "more":
        return kind, content[:at] + rng.randbytes(rng.randrange(1, 40)) + content[at:]
    return kind, content[:at] + rng.randbytes(1) + content[at + 1 :]


def journals(folder: Path, count: int, rng: random.Random) -> Counter[str]:
    """Damage a run's journal; whatever is read must be the beginning of what was written."""
    from paretax.results import Run, render
    from paretax.results.journal import read_events

    counted: Counter[str] = Counter()
    content = (folder / "run" / "journal.jsonl").read_bytes()
    whole = [json.dumps(event) for event in read_events(folder / "run")]
    place = folder / "damaged"
    for _ in range(count):
        kind, changed = damaged(content, rng)
        if changed == content:
            continue
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "journal.jsonl").write_bytes(changed)

        def attempt() -> str:
            render(Run.open(place), None, "json")
            return "\n".join(json.dumps(event) for event in read_events(place))

        came, what = outcome(attempt)
        if came == "read":
            found = what.split("\n")
            came = "read as far as whole" if found == whole[: len(found)] else "believed"
        note(counted, came, f"journal, {kind}: {what[:300]}")
    return counted


def bundles(folder: Path, count: int, rng: random.Random) -> Counter[str]:
    """Damage a bundle and make its checksums again; with its digest, nothing of it is believed."""
    from paretax.results import verify_bundle
    from paretax.results.manifest import MANIFEST, checksum, digest

    counted: Counter[str] = Counter()
    source, place = folder / "bundle", folder / "other"
    known, truth = digest(source), figures_of(verify_bundle(source))
    names = sorted(p.name for p in source.iterdir())
    for _ in range(count):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place)
        name = rng.choice(names)
        kind, changed = damaged((place / name).read_bytes(), rng)
        if name == MANIFEST and rng.random() < 0.7:
            kind, changed = "value", edited((place / name).read_text("utf-8"), rng)
        (place / name).write_bytes(changed)
        again(place, checksum)
        if digest(place) == known:
            continue
        came, what = outcome(lambda: figures_of(verify_bundle(place, expect=known)))
        if came == "read":
            note(counted, "believed", f"bundle, {name}, {kind}: its digest is another one")
            continue
        came, what = outcome(lambda: figures_of(verify_bundle(place)))
        if came == "read":
            came = "believed" if is_other(what, truth) else "read, checked figures equal"
        note(counted, came, f"bundle, {name}, {kind}: {what[:300]}")
    return counted


def figures_of(found: Any) -> str:
    """What `verify` says that it found itself."""
    held = {claim.figure: claim.value for claim in found.claims if claim.held}
    return json.dumps([found.metric, found.value, found.examples, found.size, held])


def is_other(what: str, truth: str) -> bool:
    """Whether something that is called checked is not as it was; what is only claimed may be."""
    (*found, held), (*expected, true) = json.loads(what), json.loads(truth)
    return found != expected or any(true.get(name) != value for name, value in held.items())


def again(place: Path, checksum: Callable[[Path], str]) -> None:
    """Make the checksums again, as somebody would who wants to be believed."""
    path = place / "manifest.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
        manifest["checksums"] = {n: checksum(place / n) for n in manifest["checksums"]}
        path.write_text(json.dumps(manifest), "utf-8")
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return  # nobody can


ODD: Sequence[Any] = (
    None, True, False, 0, -1, 10**12, 10**400, 1e308, float("nan"), float("inf"), "", "=1+1",
    "../../x", "\x1b[2J", "a" * 5000, [], {}, [[]], {"a": {"b": []}}, ["x"] * 2000, "1e-5", "cpu",
    {"type": "int", "low": 0, "high": 2**63}, {"type": "float", "low": 1, "high": 0},
    {"type": "categorical", "choices": []}, {"type": "ordinal", "choices": [1, 1]},
)  # fmt: skip


def edited(text: str, rng: random.Random) -> bytes:
    """A manifest with another value somewhere."""
    return json.dumps(mutated(json.loads(text), rng)).encode()


def mutated(plain: Any, rng: random.Random) -> Any:
    """A tree with one of its values, or one of its keys, changed."""
    plain = copy.deepcopy(plain)
    here, steps = plain, rng.randrange(1, 5)
    for step in range(steps):
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            break
        key = rng.choice(keys)
        inside = here[key]
        if step < steps - 1 and isinstance(inside, dict | list) and inside:
            here = inside
            continue
        if isinstance(here, dict) and rng.random() < 0.3:
            here["".join(rng.choices(string.printable, k=rng.randrange(1, 12)))] = here.pop(key)
        else:
            here[key] = copy.deepcopy(rng.choice(ODD))
        break
    return plain


def inputs(folder: Path, count: int, rng: random.Random) -> Counter[str]:
    """Change configs and profiles at random; each is read, or refused in one line."""
    from paretax.hardware_profiles import load_profile
    from paretax.search import load_config

    def config(path: Path) -> str:
        made = load_config(path)
        made.check_names()
        made.make_space().size()
        return ""

    def profile(path: Path) -> str:
        load_profile(str(path))
        return ""

    counted: Counter[str] = Counter()
    configs = sorted((ROOT / "examples").glob("*.yaml"))
    profiles = sorted((ROOT / "hardware_profiles").glob("*.yaml"))
    place = folder / "given.yaml"
    for _ in range(count):
        read, files = rng.choice([(config, configs), (profile, profiles)])
        source = rng.choice(files)
        if rng.random() < 0.5:
            kind, changed = damaged(source.read_bytes(), rng)
        else:
            plain = mutated(yaml.safe_load(source.read_text("utf-8")), rng)
            kind, changed = "value", yaml.safe_dump(plain, allow_unicode=True).encode()
        place.write_bytes(changed)
        came, what = outcome(partial(read, place))
        note(counted, came, f"{source.name}, {kind}: {what[:300]}")
    return counted


def note(counted: Counter[str], came: str, words: str) -> None:
    """Count an outcome; one that must not be is printed."""
    counted[came] += 1
    if came in ("believed", "hang", "traceback"):
        print(f"{came.upper()}: {' '.join(words.split())}", flush=True)
