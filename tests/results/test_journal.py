"""The journal: what was written is there, whatever happened to the writer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from paretax.errors import UsageError
from paretax.results import Journal, read_events
from paretax.results.journal import FILE, FORMAT, has_events

HEADER = {"event": "run", "format": FORMAT, "paretax": "0.1.0"}
EVENTS: list[dict[str, Any]] = [
    HEADER,
    {"event": "asked", "batch": 0, "trials": [{"trial": 0, "candidate": {"name": "süß\n"}}]},
    {"event": "scored", "trial": 0, "measurements": []},
    {"event": "ended"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a journal is, with all of EVENTS."""
    with Journal(tmp_path / "run") as journal:
        for event in EVENTS:
            journal.append(event)
    return tmp_path / "run"


def test_events_come_back_in_their_order(folder: Path) -> None:
    assert list(read_events(folder)) == EVENTS


def test_an_event_is_one_line_of_json(folder: Path) -> None:
    lines = (folder / FILE).read_text("utf-8").splitlines()
    plain = [json.loads(line) for line in lines]
    assert [line.pop("line") for line in plain] == [1, 2, 3, 4]
    assert len({line.pop("check") for line in plain}) == 4
    assert plain == EVENTS


def test_an_event_can_be_read_before_the_journal_is_closed(tmp_path: Path) -> None:
    with Journal(tmp_path / "a" / "run") as journal:
        for count, event in enumerate(EVENTS, 1):
            journal.append(event)
            assert list(read_events(tmp_path / "a" / "run")) == EVENTS[:count]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_an_event_that_is_not_json_is_not_written(folder: Path, number: float) -> None:
    with Journal(folder, resume=True) as journal:
        with pytest.raises(ValueError, match="JSON"):
            journal.append({"event": "scored", "value": number})
        journal.append({"event": "more"})
    assert list(read_events(folder)) == [*EVENTS, {"event": "more"}]


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_has_one_writer_at_a_time(tmp_path: Path, resume: bool) -> None:
    with Journal(tmp_path) as journal:
        journal.append(HEADER)
        message = "in use by another process" if resume else "exists: pass --resume"
        with pytest.raises(UsageError, match=message):
            Journal(tmp_path, resume=resume)
        journal.append({"event": "ended"})
    assert [e["event"] for e in read_events(tmp_path)] == ["run", "ended"]
    with Journal(tmp_path, resume=True) as journal:  # the lock is gone
        journal.append({"event": "more"})


def test_a_run_that_is_there_is_not_overwritten(folder: Path) -> None:
    before = (folder / FILE).read_bytes()
    with pytest.raises(UsageError, match=r"the run '.*' exists: pass --resume"):
        Journal(folder)
    assert (folder / FILE).read_bytes() == before


def test_a_run_that_is_not_there_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run to resume"):
        Journal(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_journal_that_is_cut_anywhere_goes_on_after_its_last_whole_line(folder: Path) -> None:
    path = folder / FILE
    whole = path.read_bytes()
    more = {"event": "more", "after": "the cut"}
    ends = {at for at, byte in enumerate(whole) if byte == ord("\n")}
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        left = whole[:cut].count(b"\n") + (cut in ends)  # all of a line but its newline
        if left:
            assert list(read_events(folder)) == EVENTS[:left]
        else:
            with pytest.raises(UsageError, match="is empty"):
                list(read_events(folder))
        with Journal(folder, resume=True) as journal:
            journal.append(more if left else HEADER)
        assert list(read_events(folder)) == ([*EVENTS[:left], more] if left else [HEADER])


def test_reading_does_not_change_a_torn_journal(folder: Path) -> None:
    path = folder / FILE
    path.write_bytes(path.read_bytes()[:-3])
    torn = path.read_bytes()
    assert list(read_events(folder)) == EVENTS[:-1]
    assert path.read_bytes() == torn


@pytest.mark.parametrize(
    "line", [b"", b"{", b"\x00\xff\xfe", b"[1, 2]", b'"event"', b"null", b'{"trial": 3}']
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_damaged_line_is_named(folder: Path, line: bytes, at: int) -> None:
    path = folder / FILE
    lines = path.read_bytes().split(b"\n")
    lines[at] = line
    path.write_bytes(b"\n".join(lines))
    events = read_events(folder)
    assert [next(events) for _ in range(at)] == EVENTS[:at]  # what stands before it
    with pytest.raises(UsageError, match=rf"line {at + 1} of '.*{FILE}' is damaged"):
        next(events)


@pytest.mark.parametrize("form", [None, 0, True, 1.0, FORMAT + 1, str(FORMAT), "x" * 10_000])
def test_a_journal_of_another_format_is_refused(folder: Path, form: Any) -> None:
    header = {**HEADER, "format": form, "paretax": "9.9"}
    (folder / FILE).write_text(json.dumps(header) + "\n")
    said = "'xxx.*xxx \\.\\.\\." if str(form).startswith("x") else repr(form)
    with pytest.raises(UsageError, match=rf"journal format {said}.* reads formats .*\(9\.9\)"):
        list(read_events(folder))


def test_a_journal_starts_with_a_run(folder: Path) -> None:
    (folder / FILE).write_text(json.dumps(EVENTS[1]) + "\n")
    with pytest.raises(UsageError, match="does not start with a run"):
        list(read_events(folder))


def test_a_folder_without_a_journal_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"is no run: it has no {FILE}"):
        list(read_events(tmp_path))
    (tmp_path / FILE).mkdir()
    with pytest.raises(UsageError, match="is no run"):
        list(read_events(tmp_path))


@pytest.mark.parametrize("content", [b"", b'{"event": "run"'])
def test_an_empty_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UsageError, match="is empty: delete it and start again"):
        list(read_events(tmp_path))


# Damage -------------------------------------------------------------------------------------------


def refused(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The events that come before the refusal of a journal, and its words."""
    events, found = read_events(folder), []
    try:
        for event in events:
            found.append(event)  # noqa: PERF402  what came before the error counts
    except UsageError as error:
        return found, str(error)
    pytest.fail(f"believed: {found}")


def unsealed(path: Path, events: list[dict[str, Any]]) -> None:
    """Write a journal as format 1 was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = events
    lines = [json.dumps(event) + "\n" for event in ({**first, "format": 1}, *others)]
    path.write_text("".join(lines))


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_is_believed(folder: Path, bit: int) -> None:
    path = folder / FILE
    whole = path.read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << bit
        path.write_bytes(changed)
        before, words = refused(folder)
        line = whole[:at].count(b"\n") + 1  # a changed newline is damage to the line that it ends
        assert before == EVENTS[: line - 1]
        if not words.startswith("line "):
            assert "journal format" in words  # of the header
            continue
        later = line + (before == EVENTS[:line])
        assert words.startswith((f"line {line} of", f"line {later} of"))
        assert "paretax check RUN --repair" in words
        with pytest.raises(UsageError):
            Journal(folder, resume=True)
        assert path.read_bytes() == changed


@pytest.mark.parametrize(
    "changed",
    [
        lambda lines: lines[:1] + lines[2:],
        lambda lines: [lines[0], lines[2], lines[1], lines[3]],
        lambda lines: lines[:2] + lines[1:],
        lambda lines: [*lines[:1], b'{"event":"asked","batch":0,"trials":[]}', *lines[1:]],
        lambda lines: [*lines[:1], b"", *lines[1:]],
        lambda lines: [*lines[:1], lines[1].replace(b'"batch":0', b'"batch":1'), *lines[2:]],
        lambda lines: [*lines[:1], lines[1].replace(b"{", b"{ ", 1), *lines[2:]],
        lambda lines: [lines[0], lines[1] + lines[2], lines[3]],
    ],
)
def test_lines_that_were_moved_or_edited_are_refused(folder: Path, changed: Any) -> None:
    path = folder / FILE
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(changed(lines)) + b"\n")
    before, words = refused(folder)
    assert before == EVENTS[: len(before)]
    assert len(before) in (1, 2)
    assert f"line {len(before) + 1} of" in words


def test_a_journal_of_format_1_opens_and_is_covered_from_its_next_line_on(tmp_path: Path) -> None:
    path = tmp_path / FILE
    unsealed(path, EVENTS)
    before = [{**HEADER, "format": 1}, *EVENTS[1:]]
    assert list(read_events(tmp_path)) == before
    with Journal(tmp_path, resume=True) as journal:
        journal.append({"event": "resumed"})
        journal.append({"event": "more"})
    assert list(read_events(tmp_path)) == [*before, {"event": "resumed"}, {"event": "more"}]
    whole = path.read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 4
        path.write_bytes(changed)
        refused(tmp_path)


def test_a_last_line_without_its_newline_counts(folder: Path) -> None:
    path = folder / FILE
    path.write_bytes(path.read_bytes()[:-1])
    assert list(read_events(folder)) == EVENTS
    with Journal(folder, resume=True) as journal:
        journal.append({"event": "more"})
    assert list(read_events(folder)) == [*EVENTS, {"event": "more"}]
    assert has_events(folder)
    path.write_bytes(path.read_bytes().split(b"\n")[0])
    assert has_events(folder)
    path.write_bytes(path.read_bytes()[:-1])
    assert not has_events(folder)
