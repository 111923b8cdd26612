"""A frame of a capture file: read by libpcap, with what the comment or the checksum says of it."""

import os
import random
import struct
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet
from scapy.utils import PcapNgWriter, PcapWriter

from vionet.check.packet import Flow, Frame
from vionet.explain.pcap import PcapError, pick
from vionet.spec.virtio_net import NetHeader

HEAD = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
PACKETS: list[Packet] = [
    HEAD / IP(src="192.0.2.1", dst="192.0.2.2") / TCP() / b"one",
    HEAD / Dot1Q(vlan=7) / IP() / UDP() / (b"two" * 300),
]
TSO = Flow(b"\2\0\0\0\0\1", b"\2\0\0\0\0\2").tcp(bytes(3000))
SAID = "web → db: PARTIAL csum_start=34 csum_offset=16 → passed partial; gso tcp4 size=1400, whole"


def pcapng(path: Path, *packets: Packet) -> Path:
    """A file that scapy writes."""
    writer = PcapNgWriter(str(path))
    for packet in packets:
        writer.write(packet)
    writer.close()
    return path


def pcap(path: Path, *packets: Packet, **more: object) -> Path:
    """The same in the older format."""
    writer = PcapWriter(str(path), **more)
    for packet in packets:
        writer.write(packet)
    writer.close()
    return path


def raw(path: Path, captured: int, length: int) -> None:
    """A file with one frame of zeros, of which so much was captured."""
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    path.write_bytes(head + struct.pack("<IIII", 0, 0, captured, length) + bytes(captured))


@pytest.mark.parametrize("write", [pcap, pcapng])
def test_both_formats(write: object, tmp_path: Path) -> None:
    """Each frame of a file is found by its number, with the bytes that it was written with."""
    path = (pcap if write is pcap else pcapng)(tmp_path / "file", *PACKETS)
    for number, packet in enumerate(PACKETS, 1):
        assert (bytes(packet), NetHeader(), (), 0) == pick(path, number)
    with pytest.raises(PcapError, match="has 2 frames; give --frame 1 to 2"):
        pick(path, 3)


def test_a_sum_that_was_left_partial(tmp_path: Path) -> None:
    """Without a comment, a field that holds the pseudo-header sum says that the sum is partial."""
    _, data = Flow(b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", version=6).udp(b"partial").partial()
    picked = pick(pcap(tmp_path / "file", Ether(data)), 1)
    assert (1, 54, 6) == (
        picked.header.flags, picked.header.csum_start, picked.header.csum_offset
    )  # fmt: skip


def test_a_comment_of_our_own(tmp_path: Path) -> None:
    """The comment of `vionet capture` says who sent it to whom, partial and large as it was."""
    packet = Ether(TSO.data)
    packet.comments = [SAID.encode()]
    picked = pick(pcapng(tmp_path / "file", PACKETS[0], packet), 2)
    assert (("web", "db"), 0) == (picked.ports, picked.vid)
    assert NetHeader(1, 1, 0, 1400, 34, 16) == picked.header
    assert TSO.data == picked.data


FLOW = Flow(b"\2\0\0\0\0\1", b"\2\0\0\0\0\2")
INNER = FLOW.vxlan(FLOW.tcp(b"inside"))
AT = f"csum_start={INNER.csum_start} csum_offset=16"


@pytest.mark.parametrize(
    ("frame", "partial", "said", "is_sent_partial"),
    [
        (TSO, False, f"{SAID}; finished in this copy", True),
        (TSO, False, SAID.replace("passed partial", "filled"), True),
        (TSO, True, SAID, True),
        (TSO, True, f"{SAID}; finished in this copy", True),
        (INNER, False, f"web → db: INNER_PARTIAL {AT} → filled; finished in this copy", True),
        (TSO, False, f"{SAID}; one of its segments", True),
        (INNER, True, f"web → tap: INNER_PARTIAL {AT} → passed partial", True),
        (TSO, True, "web → db: UNKNOWN → verified, unfilled", False),
        (TSO, False, "web → db: UNKNOWN → passed as it is", False),
        (TSO, True, "tap → db: VALID → unfilled", False),
    ],
)
def test_what_its_sender_gave(
    frame: Frame, partial: bool, said: str, is_sent_partial: bool, tmp_path: Path
) -> None:
    """A finished copy of a partial frame is explained as the partial one, and the other way round:
    no repair and no bad sum that there was not."""
    header, data = frame.partial()
    packet = Ether(data if partial else frame.data)
    packet.comments = [said.encode()]
    picked = pick(pcapng(tmp_path / "file", packet), 1)
    assert (data if is_sent_partial else frame.data) == picked.data
    assert (is_sent_partial, "VALID" in said) == tuple(
        bool(picked.header.flags & flag) for flag in (1, 2)
    )
    if is_sent_partial:
        assert header.csum_start == picked.header.csum_start


def test_an_inner_sum_was_filled_and_the_outer_one_left(tmp_path: Path) -> None:
    """As it was delivered, a tunnel's outer sum is partial; as it was sent, its inner one."""
    header, sent = INNER.partial()
    outer = Frame(INNER.data, 34, 6)
    packet = Ether(outer.partial()[1])
    packet.comments = [
        f"web → db: INNER_PARTIAL {AT} → inner sum filled, outer one verified".encode()
    ]
    assert (sent, header) == pick(pcapng(tmp_path / "file", packet), 1)[:2]


@pytest.mark.parametrize(("target", "ports"), [("all", 1), ("nobody", 1), ("db", 2)])
def test_who_got_it(target: str, ports: int, tmp_path: Path) -> None:
    """A frame that was flooded or refused has a sender alone; a VLAN is told too."""
    packet = PACKETS[0].copy()
    packet.comments = [f"web → {target} vlan 7: UNKNOWN".encode()]
    picked = pick(pcapng(tmp_path / "file", packet), 1)
    assert (("web", "db")[:ports], 7) == (picked.ports, picked.vid)


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: None, "no file"),
        (lambda path: path.mkdir(), "no file"),
        (lambda path: os.mkfifo(path), "no file"),
        (lambda path: path.write_bytes(b""), "truncated|give pcap or pcapng"),
        (lambda path: path.write_bytes(b"not a capture file at all"), "unknown file format"),
        (lambda path: pcap(path, IP() / UDP(), linktype=101), "no Ethernet frames"),
        (lambda path: raw(path, 13, 13), "13 bytes"),
        (lambda path: raw(path, 70000, 70000), "70000 bytes"),
        (lambda path: raw(path, 60, 1500), "cut off"),
    ],
)  # fmt: skip
def test_files_that_have_no_such_frame(write: object, problem: str, tmp_path: Path) -> None:
    """One line, at once: nothing there, no file, another kind of file, a frame that is none."""
    assert callable(write)
    write(tmp_path / "file")
    with pytest.raises(PcapError, match=problem) as caught:
        pick(tmp_path / "file", 1)
    assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    """Whatever bytes are changed or cut off, there is a frame of a possible size or one line."""
    dice = random.Random(6)
    packet = Ether(TSO.data)
    packet.comments = [SAID.encode()]
    whole = pcapng(tmp_path / "whole", PACKETS[0], packet, PACKETS[1]).read_bytes()
    path = tmp_path / "file"
    for _ in range(150):
        data = bytearray(whole[: dice.choice((len(whole), dice.randrange(len(whole))))])
        for _ in range(dice.randrange(1, 6)):
            if data:
                data[dice.randrange(min(len(data), 400))] = dice.randrange(256)
        path.write_bytes(data)
        try:
            assert 14 <= len(pick(path, dice.randrange(1, 4)).data) <= 65589
        except PcapError as error:
            assert "\n" not in str(error)
