"""The numbers of local interfaces, which stay."""

import json
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vionet.site.slots import FILE, Slots, SlotsError, kept_slots, read_slots, write_slots

FRESH = Slots(numbers={}, prefix6=IPv6Network("fd01:2:3::/48"))


def test_first_numbers(tmp_path: Path) -> None:
    """A new site has numbers from 1 on and a /48 of its own, which are there again next time."""
    slots = kept_slots(tmp_path, ["b", "a"], 10)
    assert {"b": 1, "a": 2} == slots.numbers
    assert slots.prefix6.subnet_of(IPv6Network("fd00::/8"))
    assert 48 == slots.prefix6.prefixlen
    assert slots == kept_slots(tmp_path, ["a", "b"], 10)
    assert [FILE] == [path.name for path in tmp_path.iterdir()]
    assert kept_slots(tmp_path / "..", [], 10).prefix6 != slots.prefix6


def test_empty_site_keeps_its_prefix(tmp_path: Path) -> None:
    """The random prefix is kept before the first interface is there."""
    assert kept_slots(tmp_path, [], 10) == kept_slots(tmp_path, [], 10)


def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    """A file that says the same is left alone."""
    kept_slots(tmp_path, ["a"], 10)
    before = (tmp_path / FILE).stat()
    kept_slots(tmp_path, ["a"], 10)
    assert before.st_ino == (tmp_path / FILE).stat().st_ino


def test_number_outlasts_its_name() -> None:
    """A name that is gone has its number when it comes back, until no other is free."""
    slots = FRESH.with_names(["a", "b"], 3).with_names(["b", "c"], 3)
    assert {"a": 1, "b": 2, "c": 3} == slots.numbers
    assert {"a": 1, "b": 2, "c": 3} == slots.with_names(["a"], 3).numbers
    assert {"b": 2, "c": 3, "d": 1} == slots.with_names(["b", "d"], 3).numbers
    with pytest.raises(SlotsError, match="4 local interfaces, and addresses for 3; take a larger"):
        slots.with_names(["a", "b", "c", "d"], 3)


def test_prefix_that_became_smaller() -> None:
    """A number without addresses is given up for one with."""
    slots = FRESH.with_names(["a", "b", "c"], 3)
    assert {"b": 2, "c": 1} == slots.with_names(["b", "c"], 2).numbers


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=5), max_size=8))
@settings(deadline=None)
def test_numbers_never_move(files: list[list[str]]) -> None:
    """Whatever comes and goes: one number a name, within the room, the same while it is there."""
    slots = FRESH
    for names in files:
        after = slots.with_names(names, 6)
        numbers = after.numbers
        assert {*names} <= {*numbers}
        assert len(numbers) == len({*numbers.values()})
        assert {*numbers.values()} <= {*range(1, 7)}
        assert all(slots.numbers[name] == numbers[name] for name in names if name in slots.numbers)
        slots = after


GOOD: dict[str, Any] = {"version": 1, "prefix6": "fd01:2:3::/48", "numbers": {"a": 1}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "\0",
        "[" * 100_000,
        json.dumps(GOOD | {"numbers": [1]}),
        json.dumps(GOOD | {"numbers": {"a": 0}}),
        json.dumps(GOOD | {"numbers": {"a": True}}),
        json.dumps(GOOD | {"numbers": {"a": 1 << 17}}),
        json.dumps(GOOD | {"numbers": {"a": 1, "b": 1}}),
        json.dumps(GOOD | {"prefix6": "fd01:2:3::/64"}),
        json.dumps(GOOD | {"prefix6": None}),
    ],
    ids=range(12),
)
def test_damaged_file(tmp_path: Path, text: str) -> None:
    """A file that cannot be what was kept is refused and left alone, with how to mend it."""
    path = tmp_path / FILE
    path.write_text(text)
    with pytest.raises(SlotsError) as caught:
        kept_slots(tmp_path, ["a"], 10)
    assert str(caught.value).startswith(f"{path}: damaged: ")
    assert str(caught.value).endswith("; mend it, or remove it, and guests get new addresses")
    assert "\n" not in str(caught.value)
    assert text == path.read_text()


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder in its place is the host's refusal, in one line."""
    (tmp_path / FILE).mkdir()
    with pytest.raises(SlotsError, match=r"numbers\.json: Is a directory; "):
        read_slots(tmp_path / FILE)


def test_written_is_read(tmp_path: Path) -> None:
    """What was written is what is read; a new file that was cut short does not count."""
    path = tmp_path / FILE
    slots = FRESH.with_names(["a", "web.0"], 9)
    write_slots(path, slots)
    (tmp_path / f"{FILE}.new").write_text("{")
    assert slots == read_slots(path)
