"""The matrix with the host's kernel as the sender: through a tap and an interface to guests of
every kind, in each of the offloads that a port may be limited to.

How it works: what a driver would say is sent into the kernel through a packet socket with a
virtio-net header, on the tap's own interface, or at the far end of a veth whose near end is the
port.  The kernel passes it on whole, or cuts and finishes it first, as the port asked of it; then
it is vionet's turn.  Forwarded to a wire, what each guest got is what a sender without any offload
would have sent.  Datagrams of a socket with UDP_SEGMENT go the same way.
"""

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import pytest

from tests.interop.kernel_cut import (
    FAR4,
    FAR6,
    NEAR4,
    NEAR6,
    UDP_SEGMENT,
    await_link,
    own_namespace,
)
from tests.interop.peers.process import call
from tests.interop.test_matrix_sinks import KINDS
from tests.reference.frame import BROADCAST, MACS
from tests.reference.guest import Guest
from tests.reference.header import parse
from tests.reference.network import Network
from tests.reference.plug import CSUM, GUEST_GSO, HOST_GSO, MRG_RXBUF, slot
from tests.reference.receiver import obeys, stream
from tests.unit.test_matrix import BODY, RECEIVERS, TRAFFIC, Speech, speeches
from vionet.engine.burst import from_tap
from vionet.engine.interface import from_interface
from vionet.ports.interface import open_interface
from vionet.ports.interface_port import InterfacePort
from vionet.ports.tap import open_tap
from vionet.ports.tap_port import TapPort
from vionet.spec.virtio_net import NetHeader

pytestmark = pytest.mark.root
SOL_PACKET, PACKET_VNET_HDR = 263, 15
HDR_LEN = 10
TIMEOUT = 60.0


@dataclass
class Source:
    """A port behind which the kernel sends."""

    network: Network
    port: TapPort | InterfacePort
    outlet: socket.socket  # of the interface through which the kernel sends
    index: int
    burst: Callable[..., int]

    def say(self, data: bytes, header: NetHeader) -> None:
        """Have the kernel send one frame."""
        self.outlet.send(header.pack(HDR_LEN) + data)

    def run(self) -> int:
        """Wait until the kernel has something for us, and take it."""
        record = self.network.state.ports[self.index]
        ready, _, _ = select.select([int(record.fd)], [], [], TIMEOUT)
        assert ready, "nothing came from the kernel"
        record.readable = 1
        return self.burst(self.network.state, self.network.work, self.index)


def outlet(interface: str) -> socket.socket:
    """A packet socket that sends with a virtio-net header."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    made.bind((interface, 0))
    return made


def quiet() -> None:
    """Nobody in this namespace speaks unless told."""
    call("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")


@contextmanager
def plugged(kind: str, label: str) -> Iterator[tuple[Network, Source]]:
    """A switch with the kernel's port alone."""
    with own_namespace(), Network() as network, ExitStack() as stack:
        quiet()
        network.state.n_ports = 1
        port: TapPort | InterfacePort
        if kind == "tap":
            port = TapPort(slot(network, 0), KINDS[label], open_tap("gtap0"))
            name, burst = "gtap0", from_tap
        else:
            call("ip", "link", "add", "gout0", "type", "veth", "peer", "name", "gout1")
            for end in ("gout0", "gout1"):
                call("ip", "link", "set", end, "mtu", "9000", "up")
            await_link("gout0", "gout1")
            port = InterfacePort(slot(network, 0), KINDS[label], open_interface("gout0"))
            name, burst = "gout1", from_interface
        stack.callback(port.close)
        made = outlet(name)
        stack.callback(made.close)
        yield network, Source(network, port, made, 0, burst)


def add_guests(network: Network) -> list[Guest]:
    """One of every kind of receiver, merging buffers or not; the port of the kernel is at 0."""
    guests = []
    for number, features in enumerate(
        word | merge for word in RECEIVERS.values() for merge in (0, MRG_RXBUF)
    ):
        network.state.n_ports = number + 2
        guests.append(Guest(network, number + 1, features, size=512, data_len=1 << 20))
    network.guests += guests
    return guests


def said_by_kernel(traffic: str) -> list[Speech]:
    """What is sent, to everybody."""
    return [
        replace(one, frame=replace(one.frame, data=BROADCAST + MACS[0] + one.frame.data[12:]))
        for one in speeches(traffic)
    ]


def deliver(source: Source, guests: list[Guest], speech: Speech) -> list[int]:
    """Send one speech, check what each guest got of it; *returns* how many frames that were."""
    for guest in guests:
        for _ in range(8):
            guest.post(*((1536,) if guest.features & MRG_RXBUF else (12, 4500)))
    everything = CSUM | HOST_GSO
    for data, header in speech.said(everything):
        source.say(data, header)
    counts = [0] * len(guests)
    streams: list[list[bytes]] = [[] for _ in guests]
    while len(streams[0]) < len(speech.plain):
        assert source.run()
        for number, guest in enumerate(guests):
            found = [(one.header, one.frame) for one in guest.received()]
            for one in found:
                obeys(guest.features, *one)
            counts[number] += len(found)
            streams[number] += stream(found)
    assert [speech.plain] * len(guests) == streams
    return counts


@pytest.mark.parametrize("kind", ["tap", "interface"])
@pytest.mark.parametrize("label", KINDS)
def test_w9_kernel_to_every_guest(kind: str, label: str) -> None:
    """The byte stream is the plain sender's at every guest; a tap that was told to give nothing
    large gives nothing large, an interface cannot be told."""
    with plugged(kind, label) as (network, source):
        guests = add_guests(network)
        assert GUEST_GSO == guests[-1].features & GUEST_GSO
        for speech in (speech for traffic in TRAFFIC for speech in said_by_kernel(traffic)):
            counts = deliver(source, guests, speech)
            large = bool(speech.sends) and (kind == "interface" or label in ("full", "complete"))
            assert (1 if large else len(speech.plain)) == counts[-1], "the last takes everything"
            assert len(speech.plain) == counts[0], "the first takes nothing"
        assert {} == {reason: n for reason, n in source.port.drops().items() if n}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("label", ["full", "csum"])
def test_datagrams_of_a_socket(version: int, label: str) -> None:
    """A socket with UDP_SEGMENT: one frame to who takes it whole, and the same datagrams, id by
    id, to who does not; cut by the kernel where the tap does not carry them."""
    with plugged("tap", label) as (network, source):
        whole, plain = add_guests(network)[-1], network.guests[0]
        call("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/gtap0/disable_ipv6")
        call("ip", "address", "add", f"{NEAR4}/24", "dev", "gtap0")
        call("ip", "-6", "address", "add", f"{NEAR6}/64", "dev", "gtap0", "nodad")
        for address in (FAR4, FAR6):
            call("ip", "neighbour", "add", address, "lladdr", MACS[1].hex(":"), "dev", "gtap0")
        for guest in (whole, plain):
            for _ in range(24):
                guest.post(*((1536,) if guest.features & MRG_RXBUF else (12, 4500)))
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6,
                           socket.SOCK_DGRAM) as sender:  # fmt: skip
            sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1001)
            sender.connect((FAR4 if version == 4 else FAR6, 4001))
            sender.send(BODY[:4000])
        found: dict[int, list[tuple[NetHeader, bytes]]] = {whole.index: [], plain.index: []}
        while len(found[plain.index]) < 4:
            source.run()
            for guest in (whole, plain):
                found[guest.index] += [
                    (one.header, one.frame)
                    for one in guest.received()
                    if parse(one.frame).protocol == 17
                ]
    assert 4 == len(found[plain.index])
    assert (1 if label == "full" else 4) == len(found[whole.index])
    assert stream(found[plain.index]) == stream(found[whole.index])
    payload = b"".join(one[42 if version == 4 else 62 :] for one in stream(found[plain.index]))
    assert BODY[:4000] == payload
