"""What techniques left out, in words: for leaderboards and model cards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paretax.results.text import in_markdown
from paretax.results.trial import Trial
from paretax.spaces.coverage import Coverage

_LISTED = 3  # weights that a leaderboard names


def coverage_of(measurements: Iterable[Any]) -> list[Coverage]:
    """What each technique of a trial touched, from what was noted of its training."""
    for measurement in measurements:
        if "coverage" in measurement.detail:
            return [Coverage.from_json(plain) for plain in measurement.detail["coverage"]]
    return []


def left_out(trials: Sequence[Trial]) -> list[str]:
    """A sentence for each set of weights that techniques left as they are, and in which trials."""
    found: dict[tuple[str, str], list[int]] = {}
    for trial in trials:
        parts: dict[str, list[str]] = {}
        for one in coverage_of(trial.measurements):
            if one.left:
                share = sum(x.bytes for x in one.left.values()) / max(1, one.total)
                names = [f"{name} ({x.why})" for name, x in one.left.items()]
                more = len(names) - _LISTED
                listed = ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
                words = f"{share:.3g} of the parameters' bytes as they are: {listed}"
                parts.setdefault(words, []).append(one.technique)
        for words, techniques in parts.items():
            found.setdefault((" and ".join(techniques), words), []).append(trial.number)
    return [
        f"{techniques[0].upper()}{techniques[1:]} "
        f"{'leave' if ' and ' in techniques or techniques.startswith('quantised') else 'leaves'} "
        f"{words} (trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))})."
        for (techniques, words), numbers in found.items()
    ]


def precisions_lost(trials: Sequence[Trial]) -> list[str]:
    """A sentence for each share of the bytes of which a precision was asked in vain."""
    found: dict[str, list[str]] = {}
    for trial in trials:
        for one in coverage_of(trial.measurements):
            if one.whole:
                share = f"{one.whole / max(1, one.total):.3g}"
                found.setdefault(share, []).append(str(trial.number))
    return [
        f"`precision` counts for nothing where products have integers: {share} of the parameters' "
        f"bytes (trial{'s' if len(numbers) > 1 else ''} {', '.join(numbers)})."
        for share, numbers in found.items()
    ]


def card_section(covered: Sequence[Mapping[str, Any]]) -> str:
    """Rows of a Markdown table: what each technique touched, in bytes of the dense model."""
    if not covered:
        return "No technique was asked for: the weights are as they were trained."
    rows = ["| technique | bytes touched | left as they are |", "| --- | --- | --- |"]
    for plain in covered:
        one = Coverage.from_json(plain)
        left = [in_markdown(f"{name}: {x.bytes} ({x.why})") for name, x in one.left.items()]
        if one.whole:
            left.append(f"weights of products with integers, which go first: {one.whole}")
        if one.unasked:
            left.append(f"weights of which it was not asked: {one.unasked}")
        if one.small:
            left.append(f"biases and norms: {one.small}")
        rows.append(
            f"| {one.technique} | {one.touched} of {one.total} | {'; '.join(left) or 'none'} |"
        )
    return "\n".join(rows)
