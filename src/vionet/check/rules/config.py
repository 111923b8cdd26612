"""Area 1.2: the queues and the configuration space, and what the MTU promises."""

import struct
from collections.abc import Callable
from functools import partial

from vionet.check.case import CONFIG, MQ, VERSION_1, Lab, check
from vionet.check.driver import BIT30, PROTOCOL, NotOffered, Port
from vionet.check.verdict import expect, same
from vionet.spec import vhost_user as vu
from vionet.spec import virtio_net as net
from vionet.vhost_user.frontend import Closed, Refused

MTU = 1 << net.VIRTIO_NET_F_MTU
MAC = 1 << net.VIRTIO_NET_F_MAC
STATUS = 1 << net.VIRTIO_NET_F_STATUS
SPEED = 1 << net.VIRTIO_NET_F_SPEED_DUPLEX
PROTOCOL_MTU = 1 << vu.VHOST_USER_PROTOCOL_F_MTU


def reader(lab: Lab, feature: int) -> Port:
    """A port that reads the configuration from the back-end, which offers it `feature`."""
    lab.need(protocol=CONFIG)
    return lab.open(0, VERSION_1 | feature, protocol=PROTOCOL | CONFIG)


def number(port: Port, offset: int, layout: str) -> int:
    """One field of the configuration."""
    return int(struct.unpack(layout, port.frontend.config(offset, struct.calcsize(layout)))[0])


def mtu_of(lab: Lab) -> int:
    """The MTU that the back-end promises on the first port."""
    port = reader(lab, MTU)
    mtu = number(port, 10, "<H")
    if mtu > 9000:
        raise NotOffered("an MTU of at most 9000")
    return mtu


def refused(action: Callable[[], object]) -> str:
    """How the back-end refuses `action`; empty if it does not."""
    try:
        action()
    except Refused:
        return "non-zero"
    except Closed:
        return "connection closed"
    return ""


@check("CF-01", does="send on ring 1 of port 1", expects="it arrives on ring 0 of port 2")
def ring_numbers(lab: Lab) -> str:
    """Ring 0 receives, ring 1 transmits."""
    a, b = lab.pair()
    token = lab.token()
    data = lab.flow().bare(token + bytes(40))
    return same(lab.carry(a, b, token, data), data)


@check("CF-03", does="GET_CONFIG whole and field by field", expects="the same bytes", ports=1)
def config_layout(lab: Lab) -> str:
    """The layout of the configuration."""
    port = reader(lab, 0)
    whole = port.frontend.config(0, 12)
    expect(len(whole) == 12, f"{len(whole)} bytes instead of 12")
    for offset, size in ((0, 6), (6, 2), (8, 2), (10, 2)):
        part = port.frontend.config(offset, size)
        expect(part == whole[offset : offset + size], f"{part.hex()} at {offset} differs")
    return whole.hex(" ")


@check("FB-04", does="read the MTU, or set it", expects="a valid MTU is accepted", ports=1)
def mtu_valid(lab: Lab) -> str:
    """MTU: the field is valid, or takes a value from the front-end."""
    if lab.offer.protocol_features & CONFIG:
        mtu = number(reader(lab, MTU), 10, "<H")
        expect(mtu >= net.MTU_MIN, f"mtu is {mtu}")
        return f"mtu is {mtu}"
    lab.need(MTU, PROTOCOL_MTU)
    port = lab.open(0, VERSION_1 | MTU, protocol=PROTOCOL | PROTOCOL_MTU)
    port.frontend.set_mtu(1500)
    port.frontend.synchronise()
    return "NET_SET_MTU 1500 was accepted"


@check("FB-05", does="read the MAC", expects="a unicast address that is not zero", ports=1)
def mac_valid(lab: Lab) -> str:
    """MAC: the field is valid."""
    mac = reader(lab, MAC).frontend.config(0, 6)
    expect(len(mac) == 6 and not mac[0] & 1 and any(mac), f"mac is {mac.hex(':')}")
    return f"mac is {mac.hex(':')}"


@check("FB-15", does="read the status", expects="no bits but LINK_UP and ANNOUNCE", ports=1)
def status_valid(lab: Lab) -> str:
    """STATUS: the field is valid."""
    status = number(reader(lab, STATUS), 6, "<H")
    expect(not status & ~3, f"status is {status:#x}")
    return f"status is {status:#x}"


@check("FB-35", "CF-14", does="read the speed", expects="0..0x7fffffff or unknown", ports=1)
def speed_valid(lab: Lab) -> str:
    """SPEED_DUPLEX: the speed is a number of Mbit/s."""
    speed = number(reader(lab, SPEED), 12, "<I")
    expect(speed <= 0x7FFFFFFF or speed == 0xFFFFFFFF, f"speed is {speed:#x}")
    return f"speed is {speed:#x}"


@check("CF-15", does="read the duplex", expects="0, 1 or unknown", ports=1)
def duplex_valid(lab: Lab) -> str:
    """SPEED_DUPLEX: the duplex."""
    duplex = number(reader(lab, SPEED), 16, "B")
    expect(duplex in (0, 1, 255), f"duplex is {duplex}")
    return f"duplex is {duplex}"


@check("CF-16", does="read speed and duplex twice", expects="no change", ports=1)
def speed_constant(lab: Lab) -> str:
    """Speed and duplex stay while the link is up."""
    port = reader(lab, SPEED)
    seen = {port.frontend.config(12, 5) for _ in range(5)}
    expect(len(seen) == 1, f"{len(seen)} different values")
    return "constant"


@check("CF-05", "CF-04", does="GET_QUEUE_NUM", expects="1..0x8000 pairs, as configured", ports=1)
def pairs_valid(lab: Lab) -> str:
    """MQ: a number of pairs."""
    lab.need(MQ, 1 << vu.VHOST_USER_PROTOCOL_F_MQ)
    pairs = lab.open(0).frontend.queue_num()
    expect(1 <= pairs <= 0x8000, f"{pairs} pairs")
    if lab.offer.protocol_features & CONFIG:
        shown = number(reader(lab, MQ), 8, "<H")
        expect(shown == pairs, f"{pairs} pairs, but the configuration says {shown}")
    return f"{pairs} pairs"


@check("CF-06", does="read the MTU; NET_SET_MTU 67 and 65536", expects="68..65535", ports=1)
def mtu_bounds(lab: Lab) -> str:
    """An MTU that IPv4 can live with."""
    seen = []
    if lab.offer.protocol_features & CONFIG and lab.offer.features_with_config & MTU:
        mtu = number(reader(lab, MTU), 10, "<H")
        expect(mtu >= net.MTU_MIN, f"mtu is {mtu}")
        seen.append(f"mtu is {mtu}")
    if lab.offer.protocol_features & PROTOCOL_MTU:
        lab.need(protocol=1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)
        for mtu in (67, 65536):
            port = lab.open(0, protocol=PROTOCOL | PROTOCOL_MTU)
            how = refused(partial(port.frontend.set_mtu, mtu))
            expect(bool(how), f"NET_SET_MTU {mtu} was accepted")
            seen.append(f"{mtu}: {how}")
    if not seen:
        raise NotOffered("VIRTIO_NET_F_MTU with CONFIG, or the protocol feature MTU")
    return ", ".join(seen)


@check("CF-07", does="read the MTU", expects="at least 1280", ports=1)
def mtu_for_ipv6(lab: Lab) -> str:
    """An MTU that IPv6 can live with."""
    mtu = number(reader(lab, MTU), 10, "<H")
    expect(mtu >= 1280, f"mtu is {mtu}")
    return f"mtu is {mtu}"


@check("CF-08", does="read the MTU before and after starting", expects="no change", ports=1)
def mtu_constant(lab: Lab) -> str:
    """The MTU never changes."""
    port = reader(lab, MTU)
    before = number(port, 10, "<H")
    port.start(4)
    after = number(port, 10, "<H")
    again = number(reader(lab, MTU), 10, "<H")
    expect(before == after == again, f"{before}, then {after}, then {again}")
    return f"mtu stays {before}"


@check("CF-09", does="port 2 sends a frame one byte over the MTU", expects="it is not delivered")
def nothing_over_mtu(lab: Lab) -> str:
    """With MTU negotiated nothing larger is delivered."""
    mtu = mtu_of(lab)
    a = lab.port(0, VERSION_1 | MTU, protocol=PROTOCOL | CONFIG, shape=(mtu + 500,))
    b = lab.port(1)
    lab.joined(b, a)
    token, fits = lab.token(), lab.token()
    b.send(lab.flow(back=True).bare(token.ljust(mtu + 1, b"\x11")))
    lab.absent(b, a, token)
    data = lab.flow(back=True).bare(fits.ljust(mtu, b"\x11"))
    same(lab.carry(b, a, fits, data), data)
    return f"{mtu} bytes pass, {mtu + 1} do not"


@check("CF-10", does="send frames of exactly the MTU, plain and tagged", expects="they arrive")
def all_of_mtu(lab: Lab) -> str:
    """With MTU negotiated frames up to it are forwarded whole."""
    mtu = mtu_of(lab)
    a = lab.port(0, VERSION_1 | MTU, protocol=PROTOCOL | CONFIG)
    b = lab.port(1, shape=(mtu + 500,))
    lab.joined(a, b)
    for tags in ((), (9,)):
        token = lab.token()
        data = lab.flow(tags=tags).bare(token.ljust(mtu, b"\x22"))
        same(lab.carry(a, b, token, data), data)
    return f"{mtu} bytes pass, with a tag too"


@check("CF-17", does="SET_CONFIG of the MAC", expects="non-zero", ports=1, survival=True)
def config_read_only(lab: Lab) -> str:
    """A modern driver never writes the configuration."""
    port = reader(lab, 0)
    before = port.frontend.config(0, 6)
    how = refused(lambda: port.frontend.set_config(0, b"\x02\0\0\0\0\x63"))
    expect(bool(how), "SET_CONFIG of the MAC was accepted")
    after = reader(lab, 0).frontend.config(0, 6)
    expect(after == before, f"mac changed to {after.hex(':')}")
    return how


@check(
    "CF-18", does="send from an address of the driver's choice", expects="it arrives", survival=True
)
def any_source(lab: Lab) -> str:
    """Without MAC the driver invents an address."""
    a, b = lab.pair()
    token = lab.token()
    data = lab.flow().bare(token + bytes(40))
    data = data[:6] + b"\x02\x99\x99\x99\x99\x99" + data[12:]
    return same(lab.carry(a, b, token, data), data)


@check("CF-20", does="send 60000 bytes without segmentation", expects="survival", survival=True)
def oversize(lab: Lab) -> str:
    """A driver must not send more than the MTU."""
    a, b = lab.pair()
    a.send(lab.flow().bare(lab.token().ljust(60000, b"\x33")))
    a.sent(lab.patience)
    return lab.survived(b)


@check("CF-23", "DS-07", does="GET_CONFIG before SET_FEATURES", expects="an answer", ports=1)
def config_early(lab: Lab) -> str:
    """Fields of offered features are readable before features are accepted."""
    lab.need(protocol=CONFIG)
    frontend = lab.connect()
    expect(bool(frontend.features() & BIT30), "bit 30 is not offered")
    frontend.set_protocol_features(CONFIG & frontend.protocol_features())
    data = frontend.config(0, 12)
    expect(len(data) == 12, f"{len(data)} bytes instead of 12")
    return data.hex(" ")


@check("CF-24", does="negotiate VERSION_1 only; a frame each way", expects="both arrive")
def minimal_driver(lab: Lab) -> str:
    """A minimal driver works."""
    a, b = lab.pair()
    for x, y, back in ((a, b, False), (b, a, True)):
        token = lab.token()
        data = lab.flow(back=back).bare(token + bytes(40))
        same(lab.carry(x, y, token, data), data)
    return "both arrive"
