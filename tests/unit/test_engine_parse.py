"""What the engine sees in a frame's headers, compared with the model on hand-made packets that
are also cut short at every byte.
"""

import ctypes

import pytest

from tests.reference.checksum import put
from tests.reference.frame import HOME_ADDRESS, Layers, authentication, fragment6, options, routing
from tests.reference.header import WINDOW_LEN, Headers, parse
from vionet.engine.ingress import read_headers
from vionet.engine.layout import HEAD_LEN, HEAD_MAX, State
from vionet.engine.parse import parse_plain
from vionet.engine.status import Csum
from vionet.fabric.fabric import prepared_work
from vionet.jit.record import allocate

WORK = prepared_work(allocate(State))
HEAD = ctypes.create_string_buffer(HEAD_MAX + 64)
TAG, QTAG, OLD = (0x8100, 0x2005), (0x88A8, 7), (0x9100, 9)
PAYLOAD = bytes(range(40))


def seen(data: bytes) -> tuple[Headers, bool]:
    """What the engine's parser says of a frame, and whether its short way knew it."""
    frame = WORK.frame[0]
    rest = ctypes.create_string_buffer(data[HEAD_LEN:], max(1, len(data) - HEAD_LEN))
    ctypes.memset(HEAD, 0xAA, len(HEAD))
    ctypes.memmove(HEAD, data, min(len(data), HEAD_LEN))
    WORK.head_hva = ctypes.addressof(HEAD)
    frame.length = len(data)
    frame.head_len = min(len(data), HEAD_LEN)
    frame.in_place = frame.first_seg = 0
    WORK.seg_hva[0] = ctypes.addressof(rest)
    WORK.seg_len[0] = len(data) - frame.head_len
    plain = bool(parse_plain(WORK, frame))
    fields = _fields(data) if plain else None
    read_headers(WORK, frame)
    whole = _fields(data)
    assert fields in (None, whole), "the short way agrees with the long one"
    return whole, plain


def _fields(data: bytes) -> Headers:
    """The frame's record in the model's words; addresses are the model's own business."""
    frame = WORK.frame[0]
    model = parse(data)
    end = int(frame.l4_off + frame.l4_len) if frame.l4_off else model.end
    found = Headers(
        int(frame.l3_off), int(frame.l3), int(frame.reached), int(frame.l4_off), int(frame.l4),
        end, bool(frame.fragment), bool(frame.routed), bool(frame.dhcp), bool(frame.bad_len),
        model.src, model.dst,
    )  # fmt: skip
    if not frame.bad_len:
        expected = Csum.UNKNOWN if model.verifiable(data) else Csum.NONE
        assert expected == frame.outer
    return found


def v6(*extensions: tuple[int, bytes]) -> Layers:
    """IPv6 with extension headers."""
    return Layers(6, extensions=extensions)


FRAMES = {
    "udp": Layers().udp(PAYLOAD).data,
    "tcp": Layers().tcp(PAYLOAD).data,
    "udp6": Layers(6).udp(PAYLOAD).data,
    "tcp6": Layers(6).tcp(PAYLOAD).data,
    "loose source route": Layers(options=b"\x01\x83\x07\x04\x0a\0\0\1").udp(PAYLOAD).data,
    "strict source route": Layers(options=b"\x89\x07\x04\x0a\0\0\1\0").tcp(PAYLOAD).data,
    "options without end": Layers(options=b"\x44\0\x44\xff").tcp(PAYLOAD).data,
    "one tag": Layers(tags=(TAG,)).udp(PAYLOAD).data,
    "two tags": Layers(6, tags=(QTAG, TAG)).tcp(PAYLOAD).data,
    "three tags": Layers(tags=(OLD, QTAG, TAG)).tcp(PAYLOAD).data,
    "thirty tags": Layers(tags=(TAG,) * 30).udp(PAYLOAD).data,
    "two hundred tags": Layers(tags=(TAG,) * 200).udp(PAYLOAD).data,
    "options": Layers(options=b"\1" * 40).udp(PAYLOAD).data,
    "four options": Layers(options=b"\1" * 4).tcp(PAYLOAD).data,
    "icmp": Layers().datagram(PAYLOAD, 1),
    "sctp": Layers(6).datagram(PAYLOAD, 132),
    "arp": Layers().ethernet(PAYLOAD, 0x0806),
    "802.3": Layers().ethernet(PAYLOAD, 40),
    "first fragment": Layers(fragment=0x2000).udp(PAYLOAD).data,
    "last fragment": Layers(fragment=0x0010).tcp(PAYLOAD).data,
    "do not fragment": Layers(fragment=0x4000).tcp(PAYLOAD).data,
    "reserved flag": Layers(fragment=0x8000).tcp(PAYLOAD).data,
    "hop by hop": v6((0, options())).udp(PAYLOAD).data,
    "all kinds": v6(
        (0, options(b"\1\4abcd")), (43, routing(0)), (60, options()), (51, authentication())
    ).tcp(PAYLOAD).data,
    "routed": v6((43, routing(1))).tcp(PAYLOAD).data,
    "home address": v6((60, options(HOME_ADDRESS))).udp(PAYLOAD).data,
    "home address behind pads": v6((60, options(b"\0\0\1\1\0" + HOME_ADDRESS))).udp(PAYLOAD).data,
    "home address behind other": v6((60, options(b"\7\2ab" + HOME_ADDRESS))).udp(PAYLOAD).data,
    "fragment6": v6((44, fragment6(0, True))).tcp(PAYLOAD).data,
    "last fragment6": v6((44, fragment6(800, False)), (60, options())).tcp(PAYLOAD).data,
    "atomic fragment6": v6((44, fragment6(0, False))).tcp(PAYLOAD).data,
    "long hop by hop": v6((0, options(bytes(300)))).tcp(PAYLOAD).data,
    "too long hop by hop": v6((0, options(bytes(600)))).tcp(PAYLOAD).data,
    "too long destination": v6((60, options(bytes(600)))).udp(PAYLOAD).data,
    "many extensions": v6(*[(60, options(bytes(30)))] * 12).udp(PAYLOAD).data,
    "no next header": Layers(6).datagram(PAYLOAD, 59),
    "udp zero": Layers().datagram(b"\1\2\3\4\0\x0c\0\0abcd", 17),
    "udp6 zero": Layers(6).datagram(b"\1\2\3\4\0\x0c\0\0abcd", 17),
    "udp short length": Layers().datagram(b"\1\2\3\4\0\x0b\1\1abcd", 17),
    "udp long length": Layers(6).datagram(b"\1\2\3\4\0\x0d\1\1abcd", 17),
    "udp of 7": Layers().datagram(b"\1\2\3\4\0\7\0", 17),
    "tcp of 19": Layers(6).datagram(bytes(19), 6),
    "dhcp": Layers().udp(PAYLOAD, (67, 68)).data,
    "dhcp server": Layers().udp(PAYLOAD, (9, 67)).data,
    "dhcp6": Layers(6).udp(PAYLOAD, (546, 9)).data,
    "tcp of dhcp's port": put(Layers().tcp(b"").data, 34, 67),
    "version 5": put(Layers().udp(PAYLOAD).data, 14, 0x5500),
    "short header": put(Layers().udp(PAYLOAD).data, 14, 0x4400),
    "version 4 of 6": put(Layers(6).udp(PAYLOAD).data, 14, 0x4500),
    "extension behind the end": put(v6((0, options())).udp(PAYLOAD).data, 18, 4),
    "extension longer than the datagram": put(v6((0, options(bytes(30)))).udp(b"").data, 18, 16),
    "authentication longer": put(v6((51, authentication(9))).udp(b"").data, 18, 24),
    "jumbo": put(v6((0, options(b"\xc2\4\0\1\0\0"))).udp(PAYLOAD).data, 18, 0),
    "trailer": Layers().udp(PAYLOAD).data + b"trailer",
    "long trailer": Layers(6).tcp(PAYLOAD).data + b"trailer" * 40,
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_headers(name: str) -> None:
    """The parser agrees with the model."""
    whole, plain = seen(FRAMES[name])
    assert parse(FRAMES[name]) == whole
    if name in ("udp", "tcp", "udp6", "tcp6"):
        assert plain


@pytest.mark.parametrize("name", FRAMES)
def test_cut_short(name: str) -> None:
    """Cut short at every byte: the parser agrees with the model, and reads nothing behind."""
    data = FRAMES[name]
    step = 1 if len(data) < 200 else 7
    for length in range(14, min(len(data), WINDOW_LEN + 40), step):
        assert parse(data[:length]) == seen(data[:length])[0], length
