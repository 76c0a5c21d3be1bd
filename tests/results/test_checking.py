"""What is damaged in a run is named, and all else is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.results import Journal, Run, read_events
from paretax.results.checking import check_run, repair
from paretax.results.journal import FILE
from paretax.results.weights import load_weights, weights_file

Spoil = Callable[[list[bytes]], list[bytes]]


@pytest.fixture
def copied(searched: Run, tmp_path: Path) -> Path:
    """A small real run, to be spoilt."""
    folder = tmp_path / "run"
    (folder / "weights").mkdir(parents=True)
    (folder / FILE).write_bytes((searched.folder / FILE).read_bytes())
    for file in (searched.folder / "weights").iterdir():
        (folder / "weights" / file.name).write_bytes(file.read_bytes())
    return folder


def spoil(folder: Path, change: Spoil) -> None:
    lines = (folder / FILE).read_bytes().splitlines()
    (folder / FILE).write_bytes(b"\n".join(change(lines)) + b"\n")


def place(folder: Path, event: str, which: int = 0) -> int:
    """The index of a line that holds such an event."""
    lines = (folder / FILE).read_bytes().splitlines()
    return [i for i, line in enumerate(lines) if json.loads(line)["event"] == event][which]


def test_a_run_that_is_whole(copied: Path) -> None:
    found = check_run(copied)
    assert found.whole
    assert not found.torn
    assert found.run == Run.open(copied)
    assert len(found.events) == (copied / FILE).read_bytes().count(b"\n")
    assert len(found.weights) == len(list((copied / "weights").iterdir())) > 0
    assert found.unchecked == 0


def test_a_torn_last_line_is_no_damage(copied: Path) -> None:
    path = copied / FILE
    path.write_bytes(path.read_bytes()[:-5])
    found = check_run(copied)
    assert (found.whole, found.torn) == (True, True)


@pytest.mark.parametrize("event", ["scored", "trained"])
def test_a_changed_measurement_costs_that_line_alone(
    copied: Path, tmp_path: Path, event: str
) -> None:
    before = Run.open(copied)
    at = place(copied, event)
    number = json.loads((copied / FILE).read_bytes().splitlines()[at])["trial"]
    spoil(
        copied, lambda lines: [*lines[:at], lines[at].replace(b"value", b"valuf"), *lines[at + 1 :]]
    )
    with pytest.raises(UsageError, match=f"line {at + 1} of"):
        Run.open(copied)
    found = check_run(copied)
    (damage,) = found.damages
    assert damage.startswith(f"line {at + 1} of {FILE}: its checksum")
    saved = repair(found, tmp_path / "saved")
    assert [t for t in saved.trials if t.number != number] == [
        t for t in before.trials if t.number != number
    ]
    assert check_run(saved.folder).whole
    for trial in saved.trials:
        if trial.weights is not None:
            assert load_weights(saved.folder, trial) is not None


def test_a_line_whose_checksum_is_gone_costs_the_next_one_too(copied: Path, tmp_path: Path) -> None:
    at = place(copied, "scored")
    spoil(copied, lambda lines: [*lines[:at], lines[at][:-9], *lines[at + 1 :]])
    found = check_run(copied)
    assert [d.split(" of ")[0] for d in found.damages] == [f"line {at + 1}", f"line {at + 2}"]
    assert len(repair(found, tmp_path / "saved").trials) == len(Run.open(tmp_path / "saved").trials)


def test_a_lost_batch_costs_its_trials_and_no_others(copied: Path, tmp_path: Path) -> None:
    events = list(read_events(copied))
    (copied / FILE).unlink()
    with Journal(copied) as journal:
        for event in events:
            if event["event"] == "asked":
                for batch, trials in enumerate((event["trials"][:2], event["trials"][2:])):
                    journal.append({**event, "batch": batch, "trials": trials})
            else:
                journal.append(event)
    before = Run.open(copied)
    at = place(copied, "asked", 0)
    spoil(
        copied, lambda lines: [*lines[:at], lines[at].replace(b"seed", b"sead"), *lines[at + 1 :]]
    )
    found = check_run(copied)
    saved = repair(found, tmp_path / "saved")
    assert list(saved.trials) == [t for t in before.trials if t.batch != 0]
    gone = next(t for t in before.trials if t.batch == 0)
    with pytest.raises(UsageError, match="lost to damage"):
        saved.trial(gone.number)
    assert saved.front("cpu")


def test_changed_weights_are_named_and_left(copied: Path, tmp_path: Path) -> None:
    kept = [t for t in Run.open(copied).trials if t.weights is not None]
    path = weights_file(copied, kept[0].number)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = check_run(copied)
    assert found.damages == (
        f"weights/{kept[0].number}.safetensors: its SHA-256 is another than the journal's",
    )
    saved = repair(found, tmp_path / "saved")
    assert not weights_file(saved.folder, kept[0].number).exists()
    for trial in kept[1:]:
        np.testing.assert_equal(load_weights(saved.folder, trial), load_weights(copied, trial))


def test_without_its_first_line_nothing_can_be_saved(copied: Path, tmp_path: Path) -> None:
    spoil(copied, lambda lines: [b"{}", *lines[1:]])
    found = check_run(copied)
    assert found.run is None
    with pytest.raises(UsageError, match=r"the first line of .* is lost"):
        repair(found, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("content", [b"", b'{"n": 1, "event": "ru'])
def test_a_journal_without_a_whole_line_is_no_run(copied: Path, content: bytes) -> None:
    (copied / "journal.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match="is empty: delete it and start again"):
        check_run(copied)


def test_a_run_is_not_saved_over_another(copied: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        repair(check_run(copied), copied)
