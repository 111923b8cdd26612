"""The matrix towards what is not a guest: taps, interfaces with and without a virtio-net header,
streams.  What leaves the machine behind each is what a sender without offload would have sent.

How it works: all senders and all sinks are on one switch in a namespace of the test, and whatever
is said goes to all sinks at once.  Behind a tap are a bridge and a veth that can do nothing,
behind an interface (the near end of such a veth) its far end, and a packet socket sees there what
a wire would.  The burst runs in this thread, so that each lane can do it.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import product

import pytest

from tests.interop.kernel_cut import Wire, beyond, own_namespace, veth
from tests.reference.frame import BROADCAST, MACS, Layers
from tests.reference.guest import DATA_GPA, Guest
from tests.reference.network import Network
from tests.reference.plug import CSUM, GUEST_CSUM, GUEST_GSO, HOST_GSO, Options, slot
from tests.reference.stream import Parser
from tests.unit.test_matrix import SENDERS, TRAFFIC, Speech, speeches
from vionet.engine.burst import from_guest
from vionet.engine.status import Policy
from vionet.ports.interface import open_interface
from vionet.ports.interface_port import InterfacePort
from vionet.ports.stream_port import StreamPort
from vionet.ports.tap import open_tap
from vionet.ports.tap_port import TapPort

pytestmark = pytest.mark.root
SUM = CSUM | GUEST_CSUM
ALL = SUM | HOST_GSO | GUEST_GSO
MARKER = BROADCAST + MACS[15] + b"\x88\xb5" + bytes(50)
KINDS = {
    "full": Options(features=ALL),
    "csum": Options(features=SUM),
    "off": Options(features=0),
    "complete": Options(features=ALL, policy=Policy.COMPLETE),
}


@dataclass
class Sink:
    """A port, what it may be given whole, and how to see what left behind it."""

    name: str
    port: TapPort | InterfacePort | StreamPort
    large: bool
    until_marker: Callable[[], list[bytes]]

    def counted(self, key: str) -> int:
        """One counter of its ledger."""
        return self.port.ledger()[key]

    @property
    def drops(self) -> dict[str, int]:
        """Drop reasons that were counted."""
        return {reason: n for reason, n in self.port.drops().items() if n}


def read_stream(end: socket.socket, parser: Parser) -> list[bytes]:
    """The frames of a stream up to the marker."""
    found: list[bytes] = []
    while MARKER not in found:
        found += parser.feed(end.recv(1 << 20))
    assert MARKER == found.pop()
    return found


def attach(network: Network, stack: ExitStack) -> Iterator[Sink]:
    """Every sink, plugged in."""

    def place() -> int:
        network.state.n_ports += 1
        return network.state.n_ports - 1

    def seen(wire: Wire) -> Callable[[], list[bytes]]:
        stack.callback(wire.close)
        return lambda: wire.until_marker(MARKER)

    for label, options in KINDS.items():
        tap = TapPort(slot(network, place()), options, open_tap(f"gt{label}"))
        stack.callback(tap.close)
        yield Sink(f"tap {label}", tap, "full" == label, seen(beyond(f"gt{label}", f"gt{label}")))
    for label, header in product(KINDS, (True, False)):
        near, far = f"gi{label}{int(header)}n", f"gi{label}{int(header)}f"
        veth(near, far)
        made = open_interface(near, header=header)
        interface = InterfacePort(slot(network, place()), KINDS[label], made)
        stack.callback(interface.close)
        large = "full" == label and header
        yield Sink(f"interface {label} {header}", interface, large, seen(Wire(far)))
    ours, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for each in (ours, end):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    end.settimeout(60)
    stack.callback(end.close)
    stream, parser = StreamPort(slot(network, place()), Options(features=ALL)), Parser()
    stream.attach(ours)
    stack.callback(stream.close)
    yield Sink("stream", stream, False, lambda: read_stream(end, parser))


@contextmanager
def everything() -> Iterator[tuple[Network, dict[str, Guest], list[Sink]]]:
    """The switch; senders reach sinks only."""
    with own_namespace(), Network() as network, ExitStack() as stack:
        senders = {
            name: network.guest(features, data_len=1 << 17, options=Options(isolated=True))
            for name, features in SENDERS.items()
        }
        yield network, senders, list(attach(network, stack))


def said_by(source: Guest, said: list[Speech]) -> list[Speech]:
    """The same from an address of the sender's own, to all."""
    mac = MACS[source.index]
    return [
        replace(one, frame=replace(one.frame, data=BROADCAST + mac + one.frame.data[12:]))
        for one in said
    ]


def test_w13_w14_every_sink_of_every_sender() -> None:
    """For each kind of traffic and sender: the wire behind each sink has the plain frames."""
    with everything() as (network, senders, sinks):
        for traffic, source in product(TRAFFIC, senders.values()):
            said = said_by(source, speeches(traffic))
            before = [sink.counted("gso_passed") for sink in sinks]
            source.next_gpa = DATA_GPA
            sent = [one for speech in said for one in speech.said(source.features)]
            for data, header in sent:
                source.send(data, header, cuts=(12,))
            source.send(MARKER)
            assert len(sent) + 1 == from_guest(network.state, network.work, source.index, 1)
            source.tx.take_used()
            assert set(source.drops) <= {"isolated"}, "of what the other senders say"
            plain = [one for speech in said for one in speech.plain]
            whole = sum(speech.large(source.features) for speech in said)
            for sink, passed in zip(sinks, before, strict=True):
                assert {} == sink.drops, sink.name
                assert plain == sink.until_marker(), (traffic, sink.name, source.index)
                passed = sink.counted("gso_passed") - passed
                assert (whole if sink.large else 0) == passed, sink.name


def test_sinks_find_what_they_take() -> None:
    """The matrix runs with what it believes: full takes large frames, and only full does."""
    with everything() as (_, _, sinks):
        takes = {sink.name: bool(sink.port.features & GUEST_GSO) for sink in sinks}
        partial = {sink.name for sink in sinks if sink.port.features & GUEST_CSUM}
    assert {sink.name: sink.large for sink in sinks} == takes
    assert {"tap full", "tap csum", "interface full True", "interface csum True"} == partial


def test_marker_is_ordinary() -> None:
    """What ends a cell is a frame that nobody changes."""
    assert MARKER == Layers(src=MACS[15], dst=BROADCAST).ethernet(bytes(50), 0x88B5)
