"""Frames of any bytes, and all kinds of answers under the eyes of tshark."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp6 import DUID_LL, DHCP6_InfoRequest, DHCP6_Solicit, DHCP6OptClientId
from scapy.layers.inet import UDP
from scapy.utils import PcapWriter
from scapy.utils import checksum as scapy_checksum

from tests.asking import GUEST, LEASE, RICH, dhcp, dhcp6, solicit, told
from vionet.services import ndp
from vionet.services.answer import answer
from vionet.services.frame import Reason, csum, wire_names

CLIENT = DHCP6OptClientId(duid=DUID_LL(lladdr=GUEST))
WARNING, ERROR = "6291456", "8388608"
WANTED = (bytes(dhcp()), bytes(solicit()), bytes(dhcp6(DHCP6_InfoRequest())))


@given(st.binary(max_size=2000), st.sampled_from((0, 14, 34, 42, 54)), st.sampled_from(WANTED))
def test_any_bytes(tail: bytes, kept: int, start: bytes) -> None:
    """Whatever the bytes, behind headers that are right or not: an answer or a reason."""
    reply = answer(start[:kept] + tail, RICH)
    assert isinstance(reply, bytes | Reason)


@given(st.sampled_from(WANTED), st.data())
def test_cut_and_changed(frame: bytes, data: st.DataObject) -> None:
    """A request cut short or changed in one byte either has the right sums or no answer."""
    place = data.draw(st.integers(0, len(frame) - 1))
    assert isinstance(answer(frame[:place], RICH), Reason)
    changed = bytearray(frame)
    changed[place] ^= data.draw(st.integers(1, 255))
    assert isinstance(answer(bytes(changed), RICH), bytes | Reason)


@given(st.binary(max_size=200))
def test_checksum_is_scapys(data: bytes) -> None:
    """The remainder of one large number is the sum of RFC 1071."""
    assert scapy_checksum(data) == csum(data)


def test_a_sum_of_zero_is_sent_as_ones() -> None:
    """The transaction number that brings a datagram's sum to nothing (W52)."""
    field = told(dhcp(xid=0))[UDP].chksum
    assert field not in (0, 0xFFFF)
    assert 0xFFFF == told(dhcp(xid=field))[UDP].chksum
    assert 0xFFFE == told(dhcp(xid=field + 0xFFFF + 1))[UDP].chksum


def test_names_that_dns_cannot_write_are_left_out() -> None:
    """Empty or long labels and names, and what would be too much, are not told."""
    names = ("", "a..b", "x" * 64, ".".join(["y" * 60] * 5), "good.example.")
    assert b"\4good\7example\0" == wire_names(names)
    assert 512 >= len(wire_names([f"{n}.{'a' * 60}" for n in range(30)])) > 400


def test_tshark_finds_nothing_wrong(need: Callable[[str], Path], tmp_path: Path) -> None:
    """Of all kinds of answers none is malformed and none has a bad checksum."""
    tshark = need("tshark")
    file = tmp_path / "answers.pcap"
    kinds = ("discover", "request", "inform", None)
    asked = [dhcp(kind, xid=0x01020304 * number) for number, kind in enumerate(kinds)]
    asked += [dhcp("request", ("requested_addr", "192.0.2.1")), dhcp6(DHCP6_Solicit() / CLIENT)]
    asked += [dhcp("discover", ("param_req_list", [26, 119])), dhcp6(DHCP6_InfoRequest())]
    asked += [solicit()]
    frames = [bytes(told(packet, lease)) for packet in asked for lease in (LEASE, RICH)]
    frames += [ndp.advertisement(LEASE), ndp.advertisement(RICH)]
    spoilt = bytearray(frames[0])
    spoilt[60] ^= 1
    with PcapWriter(str(file), linktype=1) as writer:
        for frame in (*frames, bytes(spoilt)):
            writer.write(frame)
    argv = [
        str(tshark),
        "-r",
        str(file),
        "-o",
        "ip.check_checksum:TRUE",
        "-o",
        "udp.check_checksum:TRUE",
    ]
    sums = ("ip.checksum.status", "udp.checksum.status", "icmpv6.checksum.status")
    for field in (*sums, "_ws.malformed", "_ws.expert.severity"):
        argv += ["-e", field]
    argv += ["-T", "fields"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    *lines, last = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(frames) == len(lines)
    assert "0" == last[1], "tshark sees a bad checksum"
    for *found, malformed, severity in lines:
        assert {"1"} == set(found) - {""}
        assert ("", True) == (malformed, WARNING not in severity and ERROR not in severity)
