"""The host's resolvers, out of its files."""

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vionet.services.resolver import FILE_LEN_MAX, Resolvers, parse, read

V4, V6 = IPv4Address("192.0.2.53"), IPv6Address("2001:db8::53")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Resolvers()),
        ("nameserver 192.0.2.53\nnameserver\t2001:db8::53\n", Resolvers((V4,), (V6,))),
        ("  nameserver 192.0.2.53 # ours\n;nameserver 192.0.2.1", Resolvers((V4,))),
        ("nameserver 192.0.2.53\nnameserver 192.0.2.53", Resolvers((V4,))),
        ("nameserver 127.0.0.53\nnameserver ::1\nnameserver 0.0.0.0", Resolvers()),
        ("nameserver fe80::1%eth0\nnameserver fe80::1\nnameserver 169.254.1.1", Resolvers()),
        ("nameserver\nnameserver x\nname server\noptions edns0", Resolvers()),
        (
            "domain a.example\nsearch b.example c.example.",
            Resolvers((), (), ("b.example", "c.example")),
        ),
        ("search a.example\ndomain b.example", Resolvers((), (), ("b.example",))),
        ("search . -x a_b.example x..y " + "z" * 64, Resolvers((), (), ("a_b.example",))),
    ],
)
def test_what_a_file_says(text: str, expected: Resolvers) -> None:
    """Addresses that a guest can reach, and the domains of the last line that names some."""
    assert expected == parse(text)


def test_bounds() -> None:
    """At most eight of each."""
    text = "".join(f"nameserver 192.0.2.{n}\nnameserver 2001:db8::{n:x}\n" for n in range(1, 50))
    found = parse(text + "search " + " ".join(f"d{n}.example" for n in range(50)))
    assert (8, 8, 8) == (len(found.resolvers), len(found.resolvers6), len(found.domains))


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    """Whatever a file says, it is survived."""
    assert isinstance(parse("nameserver " + text), Resolvers)


def test_second_file_where_the_first_has_only_loopback(tmp_path: Path) -> None:
    """As with systemd-resolved, whose stub listens at 127.0.0.53; no file is no resolver."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert Resolvers() == read((first, second))
    first.write_text("nameserver 127.0.0.53\nsearch a.example\n")
    assert Resolvers((), (), ("a.example",)) == read((first, second))
    second.write_text("nameserver 192.0.2.53\n")
    assert Resolvers((V4,), (), ("a.example",)) == read((first, second))
    first.write_text("nameserver 2001:db8::53\n")
    assert Resolvers((), (V6,)) == read((first, second))
    first.write_bytes(b"#" * FILE_LEN_MAX + b"\nnameserver 2001:db8::53\n")
    assert Resolvers((V4,)) == read((first, second)), "a file is read up to a bound"
