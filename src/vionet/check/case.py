"""What a check is, and the bench it runs on.

How it works: `@check` registers a function under the rule ids that it decides.  The function gets
a `Lab`, acts on one or two ports of the back-end, and returns a line that says what was seen;
when that is not what the rule wants it raises `Broken` with what was seen instead.  A feature
that the back-end does not offer raises `NotOffered`.

Each check has a lab, and so connections, of its own.
"""

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vionet.check import judge
from vionet.check.driver import BIT30, PATIENCE, PROTOCOL, Broken, Delivery, NotOffered, Port
from vionet.check.packet import Flow, Frame, extension
from vionet.check.segment import KINDS, Large, breaches, expanded
from vionet.check.verdict import describe, difference, during, same
from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.spec.rules import rules
from vionet.vhost_user.frontend import Frontend
from vionet.vhost_user.guest_memory import GuestMemory

VERSION_1: Final = 1 << virtio.VIRTIO_F_VERSION_1
MRG: Final = 1 << net.VIRTIO_NET_F_MRG_RXBUF
CSUM: Final = 1 << net.VIRTIO_NET_F_CSUM
GUEST_CSUM: Final = 1 << net.VIRTIO_NET_F_GUEST_CSUM
INDIRECT: Final = 1 << virtio.VIRTIO_F_INDIRECT_DESC
EVENT_IDX: Final = 1 << virtio.VIRTIO_F_EVENT_IDX
MQ: Final = 1 << net.VIRTIO_NET_F_MQ
CTRL_VQ: Final = 1 << net.VIRTIO_NET_F_CTRL_VQ
LINK: Final = 60  # seconds for the command of `--link`
PAIRS_MAX: Final = 16  # of a port that the tester drives
CONFIG: Final = 1 << vu.VHOST_USER_PROTOCOL_F_CONFIG
MACS: Final = (b"\x02\x76\x69\x6f\x00\x01", b"\x02\x76\x69\x6f\x00\x02")

Body = Callable[["Lab"], str]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: which rules it decides, what it does, what is expected."""

    ids: tuple[str, ...]
    does: str
    expects: str
    ports: int
    body: Body
    survival: bool  # the rule binds the driver; the device has to survive its breach


CHECKS: Final[list[Check]] = []


def check(
    *ids: str, does: str, expects: str, ports: int = 2, survival: bool = False
) -> Callable[[Body], Body]:
    """Register the decorated function as the check of the rules `ids`."""
    for rule_id in ids:
        assert rule_id in rules(), rule_id

    def register(body: Body) -> Body:
        CHECKS.append(Check(ids, does, expects, ports, body, survival))
        return body

    return register


@dataclass(slots=True)
class Offer:
    """What the back-end offers, asked once."""

    features: int
    protocol_features: int
    features_with_config: int  # once CONFIG is negotiated
    pairs: int = 1  # of queues

    @classmethod
    def read(cls, path: str, timeout: float) -> "Offer":
        """Ask the back-end behind `path`."""
        with Frontend.connect(path, timeout) as frontend:
            features = frontend.features()
            if not features & BIT30:
                return cls(features, 0, features)
            protocol = frontend.protocol_features()
            frontend.set_protocol_features(protocol & (PROTOCOL | CONFIG))
            pairs = frontend.queue_num() if protocol & 1 << vu.VHOST_USER_PROTOCOL_F_MQ else 1
            return cls(features, protocol, frontend.features(), min(pairs, PAIRS_MAX))


@dataclass(slots=True)
class Lab:
    """The bench of one check: it opens ports on the back-end's sockets and closes them."""

    paths: Sequence[str]
    offer: Offer
    timeout: float = 5.0
    patience: float = PATIENCE
    extra: int = 0  # features that every port negotiates besides
    link_command: Sequence[str] = ()  # with {} for "up" or "down"
    ports: list[Port] = field(default_factory=list)
    frontends: dict[int, Frontend] = field(default_factory=dict)
    memories: list[GuestMemory] = field(default_factory=list)
    _fds: list[int] = field(default_factory=list)
    _link_is_down: bool = False
    _serial: "itertools.count[int]" = field(default_factory=itertools.count)
    _salt: str = field(default_factory=lambda: os.urandom(2).hex())

    def close(self) -> None:
        """Close everything that was opened, and leave the link up."""
        if self._link_is_down:
            self.link("up")
        for port in self.ports:
            port.close()
        for frontend in self.frontends.values():
            frontend.close()
        for memory in self.memories:
            memory.close()
        for fd in self._fds:
            os.close(fd)

    def eventfd(self, flags: int = os.EFD_NONBLOCK) -> int:
        """An event descriptor that is closed with the lab."""
        self._fds.append(os.eventfd(0, flags | os.EFD_CLOEXEC))
        return self._fds[-1]

    def pause(self, seconds: float) -> None:
        """Wait where the back-end gives nothing to wait for."""
        time.sleep(seconds)

    def link(self, state: str) -> None:
        """Take the link of the first port "down" or "up", by the command of `--link`."""
        if not self.link_command:
            raise NotOffered("a way to move the link (--link)")
        self._link_is_down = state == "down"
        words = [word.replace("{}", state) for word in self.link_command]
        subprocess.run(words, check=True, timeout=LINK, stdout=subprocess.DEVNULL)

    # --- connections --------------------------------------------------------------------------
    def need(self, features: int = 0, protocol: int = 0) -> None:
        """Raise `NotOffered` unless the back-end offers all of these."""
        if missing := features & ~self.offer.features:
            raise NotOffered(" ".join(virtio.names(missing)))
        if missing := protocol & ~self.offer.protocol_features:
            raise NotOffered(" ".join(vu.protocol_names(missing)))

    def connect(self, where: int = 0) -> Frontend:
        """A bare front-end that has said nothing yet; others on its socket hang up before."""
        self.hang_up(where)
        self.frontends[where] = Frontend.connect(self.paths[where], self.timeout)
        return self.frontends[where]

    def hang_up(self, where: int) -> None:
        """Close what is open on one socket."""
        if where in self.frontends:
            self.frontends.pop(where).close()
        for port in [port for port in self.ports if port.where == where]:
            self.ports.remove(port)
            port.close()

    def open(self, where: int = 0, want: int = VERSION_1, **options: Any) -> Port:
        """A port that has negotiated `want` and nothing more; rings not set up.

        What was open on the same socket hangs up before.
        """
        self.hang_up(where)
        port = Port.open(self.paths[where], want | self.extra, timeout=self.timeout, **options)
        port.where, port.patience = where, self.patience
        self.ports.append(port)
        return port

    def served(self, features: int = 0, where: int = 0, **options: Any) -> Port:
        """A port, not started, whose control queue the back-end serves, and `features`.

        Front-ends that leave this queue to the back-end read the configuration from it, too.
        """
        want = VERSION_1 | CTRL_VQ | features
        if missing := want & ~self.offer.features_with_config:
            raise NotOffered(" ".join(virtio.names(missing)))
        pairs = self.offer.pairs if features & MQ else 1
        return self.open(
            where, want, protocol=PROTOCOL | CONFIG, control=True, pairs=pairs, **options
        )

    def port(
        self,
        where: int = 0,
        want: int = VERSION_1,
        *,
        rx_buffers: int = 64,
        shape: Sequence[int] = (2048,),
        **options: Any,
    ) -> Port:
        """A port that is up and has receive buffers."""
        return self.open(where, want, **options).start(rx_buffers, shape)

    def pair(self, sender: int = VERSION_1, receiver: int = VERSION_1) -> tuple[Port, Port]:
        """A sender on the first socket, a receiver on the second; frames pass when it returns."""
        return self.joined(self.port(0, sender), self.port(1, receiver))

    def joined(self, a: Port, b: Port) -> tuple[Port, Port]:
        """Send frames from `a` until one arrives at `b`: a back-end may need a moment to begin."""
        last = Broken("not tried")
        for _ in range(20):
            token = self.token()
            if a.rings[1].room < 2:  # of a small ring: what is in it has to be taken
                a.sent(self.patience)
            a.send(self.flow(back=a.where == 1).bare(token.ljust(46, b"\0")))
            try:
                b.collect(token, self.patience / 10)
                a.sent(self.patience)
                return a, b
            except Broken as error:
                last = error
        raise Broken(f"a plain frame does not pass from port 1 to port 2: {last}")

    def offered(self, *bits: int) -> int:
        """The word of those of `bits` that are offered."""
        return self.offer.features & virtio.mask(bits)

    def sending(self) -> int:
        """Everything that a driver may leave to the back-end when it sends."""
        hosts = {kind.host for kind in KINDS}
        return VERSION_1 | self.offered(
            net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_HOST_ECN, net.VIRTIO_NET_F_HOST_UFO, *hosts
        )

    # --- frames -------------------------------------------------------------------------------
    def token(self) -> bytes:
        """12 letters and digits that no other frame contains."""
        return f"vio{self._salt}{next(self._serial):05}".encode()

    def flow(self, version: int = 4, *, back: bool = False, **layers: Any) -> Flow:
        """Addresses from port 1 to port 2, or `back`."""
        src, dst = reversed(MACS) if back else MACS
        return Flow(src, dst, version, **layers)

    def carry(
        self,
        a: Port,
        b: Port,
        token: bytes,
        data: bytes,
        header: net.NetHeader | bytes = net.NetHeader(),  # noqa: B008
        shape: Sequence[int] = (),
        *,
        direct: int | None = None,
    ) -> Delivery:
        """Send one frame from `a`, wait for it at `b`."""
        a.reap()
        a.send(data, header, shape, direct=direct)
        return b.collect(token, self.patience)

    def carry_partial(
        self, a: Port, b: Port, token: bytes, frame: Frame, what: str, **changes: int
    ) -> Delivery:
        """Send `frame` with NEEDS_CSUM, its header changed by `changes`; it must arrive right."""
        header, data = frame.partial(**changes)
        with during(what):
            delivery = self.carry(a, b, token, data, header)
            same(delivery, frame.data)
        return delivery

    def carry_large(self, a: Port, b: Port, large: Large, **changes: int) -> list[Delivery]:
        """Send a large frame; what arrives is what its segments are, however it was cut.

        Its ports must be its own: frames are known by them.
        """
        header, data = large.sent(**changes)
        at = judge.parse(data)
        a.send(data, header)
        found = list(self.arrivals(a, b, data[at.l4_off : at.l4_off + 4]))
        pieces = [p for each in found for p in expanded(each.header, each.frame)]
        wanted = large.segments()
        if not pieces:
            raise Broken("nothing arrived")
        for number, (seen, due) in enumerate(zip(pieces, wanted, strict=False)):
            if seen != due:
                raise Broken(f"segment {number} of {len(wanted)}: {difference(seen, due)}")
        if len(pieces) != len(wanted):
            raise Broken(f"{len(pieces)} segments instead of {len(wanted)}")
        for each in found:
            wrong = judge.objections(each.header, each.frame)
            wrong += breaches(each.header, each.frame, b.features).values()
            if wrong:
                raise Broken(f"{'; '.join(wrong)} ({describe(each)})")
        return found

    def refresh(self, where: int, count: int) -> None:
        """Throw away what has arrived at a port and post `count` buffers; a wire waits for them."""
        for port in self.ports:
            if port.where == where:
                port.drain()
                port.fill(count)

    def arrivals(
        self, a: Port, b: Port, token: bytes, tags: tuple[int, ...] = ()
    ) -> Iterator[Delivery]:
        """The frames with `token` that `a` has sent and `b` receives, in their order.

        A frame that `a` sends now, with `tags`, ends them: ports keep their order.
        """
        end = self.token()
        a.reap()
        a.send(self.flow(back=a.where == 1, tags=tags).bare(end.ljust(46, b"\0")))
        while end not in (found := b.collect_any((token, end), self.patience)).frame:
            yield found

    def arrival(self, a: Port, b: Port, token: bytes) -> Delivery | None:
        """The frame with `token` that `a` has sent, or None if `b` does not get it."""
        return next(self.arrivals(a, b, token), None)

    def absent(self, a: Port, b: Port, token: bytes) -> None:
        """Raise `Broken` if a frame with `token` comes to `b`."""
        if (found := self.arrival(a, b, token)) is not None:
            raise Broken(f"it was delivered, with {describe(found)}")

    def absent_after(
        self, a: Port, b: Port, token: bytes, data: bytes, header: net.NetHeader | bytes
    ) -> None:
        """Send a frame from `a` that must not come to `b`."""
        a.send(data, header)
        self.absent(a, b, token)

    def survived(self, b: Port | None = None) -> str:
        """Connect to the first socket anew; the neighbour `b`, if given, must still be served."""
        if b is None:
            port = self.port(0)
            port.send(self.flow().bare(self.token().ljust(46, b"\0")))
            if len(self.paths) == 1:
                port.sent(self.patience)
            return "the next connection is served"
        a = self.port(0)
        b.frontend.synchronise()
        b.drain()
        b.fill(32)
        self.joined(a, b)
        return "the next connection is served, and so was the neighbour"


def variety(lab: Lab, back: bool = False) -> Iterator[tuple[str, bytes, Frame]]:
    """TCP and UDP frames in all the wrappings of L3: what it is, its token, the frame."""
    extensions = (
        (judge.NEXT_HOP_BY_HOP, extension()),
        (judge.NEXT_DESTINATION, extension(b"\1\4")),
    )
    layers: list[tuple[str, int, dict[str, Any]]] = [
        ("IPv4", 4, {}),
        ("IPv6", 6, {}),
        ("IPv4 with options", 4, {"options": b"\x94\x04\0\0"}),
        ("IPv6 with extension headers", 6, {"extensions": extensions}),
        ("IPv4 in 802.1Q", 4, {"tags": (5,)}),
        ("IPv6 in QinQ", 6, {"tags": (6, 7)}),
    ]
    for name, version, wrapping in layers:
        flow = lab.flow(version, back=back, **wrapping)
        token = lab.token()
        yield f"UDP over {name}", token, flow.udp(token + bytes(range(33)))
        token = lab.token()
        yield f"TCP over {name}", token, flow.tcp(token + bytes(range(256)) * 4)
