"""The wire format: messages cut out of a stream however it arrives."""

import os
import socket

import pytest

from vionet.spec import vhost_user as vu
from vionet.spec.vhost_user import Request
from vionet.vhost_user.message import Decoder, Message, ProtocolError


def test_a_message_survives_being_sent_byte_by_byte() -> None:
    """spec VU-01: header and payload may arrive in any pieces."""
    data = Message(Request.SET_FEATURES, vu.U64.pack(5)).pack()
    decoder = Decoder()
    found = [decoder.feed(data[i : i + 1]) for i in range(len(data))]
    assert [None] * (len(data) - 1) == found[:-1]
    assert Message(Request.SET_FEATURES, vu.U64.pack(5)) == found[-1]


def test_wanted_never_reaches_past_the_message() -> None:
    """A reader that takes at most `wanted` bytes sees exactly one message at a time."""
    stream = b"".join(Message(i, bytes(i)).pack() for i in range(1, 30))
    decoder, found = Decoder(), []
    while stream:
        piece, stream = stream[: decoder.wanted], stream[decoder.wanted :]
        if (message := decoder.feed(piece)) is not None:
            found.append((message.request, len(message.payload)))
    assert [(i, i) for i in range(1, 30)] == found
    assert not decoder.midway


def test_descriptors_stay_with_their_message_when_sends_are_joined() -> None:
    """The kernel joins a send without descriptors and one with; they belong to the second."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(Message(Request.SET_OWNER).pack())
        socket.send_fds(ours, [Message(Request.SET_VRING_KICK, vu.U64.pack(0)).pack()], [0])
        decoder = Decoder()
        found: list[Message] = []
        while len(found) < 2:
            data, fds, _, _ = socket.recv_fds(theirs, decoder.wanted, 8)
            if (message := decoder.feed(data, fds)) is not None:
                found.append(message)
    assert [0, 1] == [len(message.fds) for message in found]
    os.close(found[1].fds[0])


@pytest.mark.parametrize("version", [0, 2, 3])
def test_another_version_is_refused(version: int) -> None:
    """spec VU-02: the low two flag bits are 1."""
    with pytest.raises(ProtocolError, match=f"version {version}"):
        Decoder().feed(vu.HEADER.pack(1, version, 0))


def test_a_huge_payload_is_refused_at_its_header() -> None:
    """Nothing is buffered for a size that no message has."""
    with pytest.raises(ProtocolError, match="payload of 4294967295 bytes"):
        Decoder().feed(vu.HEADER.pack(1, vu.VERSION, 0xFFFFFFFF))


def test_too_many_descriptors_are_refused_and_can_be_closed() -> None:
    """A message has at most 8 descriptors; those that came can still be had."""
    decoder = Decoder()
    with pytest.raises(ProtocolError, match="file descriptors"):
        decoder.feed(b"\0", range(100, 109))
    assert tuple(range(100, 109)) == decoder.take_fds()
    assert () == decoder.take_fds()


def test_flags_and_names() -> None:
    """A message knows whether it is a reply and whether it asks for one; numbers have names."""
    plain = Message(200)
    assert (False, False, "request 200") == (plain.is_reply, plain.need_reply, plain.name)
    flags = vu.VERSION | vu.FLAG_REPLY | vu.FLAG_NEED_REPLY
    both = Message(Request.GET_FEATURES, flags=flags)
    assert (True, True, "GET_FEATURES") == (both.is_reply, both.need_reply, both.name)
