"""Numbers with units, as data sheets write them."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretax.hardware_profiles.quantities import UNITS, parse_quantity


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("312 TFLOP/s", "rate", 312e12),
        ("624 TOP/s", "rate", 624e12),
        ("3 GOP/s", "rate", 3e9),
        ("5 op/s", "rate", 5.0),
        ("2039 GB/s", "bandwidth", 2039e9),
        ("3.35 TB/s", "bandwidth", 3.35e12),
        ("800 GiB/s", "bandwidth", 800 * 2**30),
        ("40 MiB", "bytes", 40 * 2**20),
        ("16 GB", "bytes", 16e9),
        ("1 KiB", "bytes", 1024.0),
        ("1 kB", "bytes", 1000.0),
        ("1 KB", "bytes", 1000.0),
        ("3 us", "time", 3e-6),
        ("0.5 ms", "time", 0.5e-3),
        ("1410 MHz", "frequency", 1410e6),
        ("2.2 GHz", "frequency", 2.2e9),
        ("400 W", "power", 400.0),
        ("50 mW", "power", 0.05),
        ("0.4 pJ", "energy", 0.4e-12),
        ("3.67 USD/h", "price", 3.67),
        ("700 um2", "area", 700e-6),
        ("4.8 mm2", "area", 4.8),
        ("0 W", "power", 0.0),
        ("1e3 W", "power", 1000.0),
        ("1E-3 W", "power", 1e-3),
        ("+2 W", "power", 2.0),
        (".5 W", "power", 0.5),
        ("  2   W  ", "power", 2.0),
        ("2W", "power", 2.0),
    ],
)
def test_a_quantity_in_its_base_unit(text: str, kind: str, value: float) -> None:
    assert parse_quantity(text, kind) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("kind", list(UNITS))
def test_every_unit_of_a_kind_is_read(kind: str) -> None:
    for unit, factor in UNITS[kind].items():
        assert parse_quantity(f"2.5 {unit}", kind) == 2.5 * factor


def test_capital_and_small_prefixes_differ() -> None:
    assert parse_quantity("1 MW", "power") == 1e9 * parse_quantity("1 mW", "power")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (312, "rate", "a rate must have a unit, got 312: write it like '19.5 TFLOP/s'"),
        (1.5, "bytes", "a size must have a unit, got 1.5: write it like '16 GiB'"),
        ("312", "rate", "a rate must have a unit, got '312': write it like '19.5 TFLOP/s'"),
        ("3 GB/s", "rate", "unit like that of '19.5 TFLOP/s', got '3 GB/s'"),
        ("3 TFLOPS", "rate", "unit like that of '19.5 TFLOP/s', got '3 TFLOPS'"),
        ("3 tflop/s", "rate", "unit like that of '19.5 TFLOP/s', got '3 tflop/s'"),
        ("3 EUR/h", "price", "unit like that of '1.20 USD/h', got '3 EUR/h'"),
        ("3 min", "time", "unit like that of '2 us', got '3 min'"),
        ("fast", "rate", "must be a number and a unit like '19.5 TFLOP/s', got 'fast'"),
        ("", "time", "must be a number and a unit like '2 us', got ''"),
        ("W", "power", "must be a number and a unit like '300 W', got 'W'"),
        ("nan W", "power", "must be a number and a unit like '300 W', got 'nan W'"),
        ("inf W", "power", "must be a number and a unit like '300 W', got 'inf W'"),
        ("1.2.3 W", "power", "must be a number and a unit, got '1.2.3 W'"),
        (". W", "power", "must be a number and a unit, got '. W'"),
        ("1e400 W", "power", "must be finite and not negative, got '1e400 W'"),
        ("-1 W", "power", "must be finite and not negative, got '-1 W'"),
        (None, "power", "must be a number and a unit like '300 W', got None"),
        (True, "power", "must be a number and a unit like '300 W', got True"),
        (["1 W"], "power", "must be a number and a unit like '300 W', got ['1 W']"),
    ],
)
def test_what_is_no_quantity_is_refused_with_an_example(
    text: object, kind: str, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        parse_quantity(text, kind)
    assert "\n" not in str(refused.value)


@given(st.floats(0, 1e6), st.sampled_from([(k, u) for k in UNITS for u in UNITS[k]]))
def test_what_is_written_is_read(number: float, unit: tuple[str, str]) -> None:
    kind, name = unit
    assert parse_quantity(f"{number!r} {name}", kind) == number * UNITS[kind][name]


@given(st.text(), st.sampled_from(list(UNITS)))
def test_any_text_is_a_quantity_or_refused(text: str, kind: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_quantity(text, kind) >= 0
