"""Areas 1.1 and 2.2: which feature bits are offered, and what accepting them does."""

from typing import Final

from vionet.check.case import CSUM, EVENT_IDX, GUEST_CSUM, INDIRECT, MRG, VERSION_1, Lab, check
from vionet.check.driver import NotOffered
from vionet.check.verdict import describe, during, expect, same
from vionet.spec import virtio
from vionet.spec import virtio_net as net

# Rule id -> the bit that needs others, by the table of VIRTIO 5.1.3.1.
NEEDY: Final = {
    "FB-03": net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    "FB-06": net.VIRTIO_NET_F_GUEST_TSO4,
    "FB-07": net.VIRTIO_NET_F_GUEST_TSO6,
    "FB-08": net.VIRTIO_NET_F_GUEST_ECN,
    "FB-09": net.VIRTIO_NET_F_GUEST_UFO,
    "FB-10": net.VIRTIO_NET_F_HOST_TSO4,
    "FB-11": net.VIRTIO_NET_F_HOST_TSO6,
    "FB-12": net.VIRTIO_NET_F_HOST_ECN,
    "FB-13": net.VIRTIO_NET_F_HOST_UFO,
    "FB-17": net.VIRTIO_NET_F_CTRL_RX,
    "FB-18": net.VIRTIO_NET_F_CTRL_VLAN,
    "FB-19": net.VIRTIO_NET_F_CTRL_RX_EXTRA,
    "FB-20": net.VIRTIO_NET_F_GUEST_ANNOUNCE,
    "FB-21": net.VIRTIO_NET_F_MQ,
    "FB-22": net.VIRTIO_NET_F_CTRL_MAC_ADDR,
    "FB-23": net.VIRTIO_NET_F_DEVICE_STATS,
    "FB-24": net.VIRTIO_NET_F_HASH_TUNNEL,
    "FB-25": net.VIRTIO_NET_F_VQ_NOTF_COAL,
    "FB-26": net.VIRTIO_NET_F_NOTF_COAL,
    "FB-27": net.VIRTIO_NET_F_GUEST_USO4,
    "FB-28": net.VIRTIO_NET_F_GUEST_USO6,
    "FB-29": net.VIRTIO_NET_F_HOST_USO,
    "FB-30": net.VIRTIO_NET_F_HASH_REPORT,
    "FB-32": net.VIRTIO_NET_F_RSS,
    "FB-33": net.VIRTIO_NET_F_RSC_EXT,
}

# Rule id -> bits that a vhost-user back-end has no business with.
NEVER: Final = {
    "FB-43": (net.VIRTIO_NET_F_GSO,),
    "FB-44": (41, 42),
    "RF-07": (virtio.VIRTIO_F_SR_IOV,),
    "RF-08": (virtio.VIRTIO_F_NOTIFICATION_DATA, virtio.VIRTIO_F_NOTIF_CONFIG_DATA),
    "RF-09": (virtio.VIRTIO_F_ADMIN_VQ,),
    "FE-05": (virtio.VIRTIO_F_RING_RESET,),
    "FE-07": (net.VIRTIO_NET_F_RSS, net.VIRTIO_NET_F_HASH_REPORT),
}


def _needs(rule_id: str, bit: int) -> None:
    groups = [" or ".join(map(virtio.NAMES.__getitem__, g)) for g in virtio.REQUIRES[bit]]

    @check(
        rule_id,
        does="GET_FEATURES",
        expects=f"{virtio.NAMES[bit]} only together with {' and '.join(groups)}",
        ports=1,
    )
    def offered_together(lab: Lab) -> str:
        offered = lab.offer.features_with_config
        if not offered >> bit & 1:
            raise NotOffered(virtio.NAMES[bit])
        for group in virtio.REQUIRES[bit]:
            expect(bool(offered & virtio.mask(group)), f"{virtio.NAMES[bit]} is offered alone")
        return "offered together"


def _never(rule_id: str, bits: tuple[int, ...]) -> None:
    word = virtio.mask(bits)

    @check(rule_id, does="GET_FEATURES", expects=f"no {' '.join(virtio.names(word))}", ports=1)
    def not_offered(lab: Lab) -> str:
        seen = lab.offer.features_with_config & word
        expect(not seen, f"{' '.join(virtio.names(seen))} is offered")
        return "not offered"


for _id, _bit in NEEDY.items():
    _needs(_id, _bit)
for _id, _bits in NEVER.items():
    _never(_id, _bits)


@check("FB-01", does="send frames with NEEDS_CSUM", expects="they arrive, and can be finished")
def partial_accepted(lab: Lab) -> str:
    """CSUM: the driver leaves the sum to the device."""
    a, b = lab.pair(VERSION_1 | CSUM)
    token = lab.token()
    return describe(lab.carry_partial(a, b, token, lab.flow().udp(token + b"odd"), "UDP"))


@check("FB-02", does="send a frame to a driver with GUEST_CSUM", expects="it can be finished")
def partial_received(lab: Lab) -> str:
    """GUEST_CSUM: the driver takes unfinished sums."""
    lab.need(GUEST_CSUM)
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features, VERSION_1 | GUEST_CSUM)
    token = lab.token()
    frame = lab.flow().tcp(token)
    header, data = frame.partial() if a.features & CSUM else (net.NetHeader(), frame.data)
    return same(lab.carry(a, b, token, data, header), frame.data)


@check("FB-14", does="send 1000 bytes into buffers of 256", expects="several buffers are used")
def merged(lab: Lab) -> str:
    """MRG_RXBUF: a frame may span buffers."""
    a = lab.port(0)
    b = lab.port(1, VERSION_1 | MRG, shape=(256,), rx_buffers=128)
    lab.joined(a, b)
    token = lab.token()
    data = lab.flow().bare(token + bytes(1000))
    delivery = lab.carry(a, b, token, data)
    expect(len(delivery.buffers) > 1, f"{len(delivery.buffers)} buffer was used")
    return f"{len(delivery.buffers)} buffers, {same(delivery, data)}"


@check(
    "FB-16",
    does="SET_VRING_NUM for the ring after the last pair",
    expects="CTRL_VQ offered means that this ring exists",
    ports=1,
)
def control_queue_exists(lab: Lab) -> str:
    """CTRL_VQ: one more ring."""
    port = lab.served()
    port.frontend.set_vring_num(2, 64)
    port.frontend.synchronise()
    return "ring 2 takes a size"


@check("FB-34", does="GET_FEATURES", expects="STANDBY only together with MAC", ports=1)
def standby_has_mac(lab: Lab) -> str:
    """STANDBY: pairs are found by address."""
    lab.need(1 << net.VIRTIO_NET_F_STANDBY)
    offered = lab.offer.features_with_config
    expect(bool(offered >> net.VIRTIO_NET_F_MAC & 1), "STANDBY is offered without MAC")
    return "offered together"


@check("FB-45", "FB-48", does="GET_FEATURES", expects="only bits that have a name", ports=1)
def known_bits(lab: Lab) -> str:
    """No reserved or undefined bits."""
    unknown = lab.offer.features_with_config & ~virtio.mask(virtio.NAMES)
    expect(not unknown, f"unknown bits {unknown:#x} are offered")
    return " ".join(virtio.names(lab.offer.features_with_config))


@check(
    "FB-46",
    does="accept every subset of CSUM, GUEST_CSUM, MRG_RXBUF, EVENT_IDX and INDIRECT_DESC, with"
    " VERSION_1, and some without; a frame each way",
    expects="frames pass in each",
)
def every_subset(lab: Lab) -> str:
    """Any closed subset is accepted."""
    b = lab.port(1, rx_buffers=200)
    bits = [bit for bit in (CSUM, GUEST_CSUM, MRG, EVENT_IDX, INDIRECT) if lab.offer.features & bit]
    words = [
        sum(bit for place, bit in enumerate(bits) if number >> place & 1)
        for number in range(1 << len(bits))
    ]
    for word in [w | VERSION_1 for w in words] + words[:8]:
        a = lab.port(0, word, rx_buffers=8)
        with during(f"with {' '.join(virtio.names(word))}"):
            lab.joined(a, b)
            token = lab.token()
            frame = lab.flow(back=True).udp(token)
            same(lab.carry(b, a, token, frame.data), frame.data)
    return f"frames passed in {len(words) + len(words[:8])} subsets"


@check("FB-47", does="accept the same features three times", expects="accepted each time", ports=1)
def accepted_again(lab: Lab) -> str:
    """What was accepted once is accepted after a reset."""
    want = lab.offer.features & (VERSION_1 | CSUM | GUEST_CSUM | MRG | EVENT_IDX | INDIRECT)
    for _ in range(3):
        port = lab.open(0, want)
        port.frontend.set_features(port.features)
        port.frontend.synchronise()
    return f"{' '.join(virtio.names(want))} three times"


@check("RF-01", does="GET_FEATURES", expects="VERSION_1", ports=1)
def version_1(lab: Lab) -> str:
    """A device of this century."""
    expect(bool(lab.offer.features & VERSION_1), "VERSION_1 is not offered")
    return "offered"


@check("RF-04", does="send good, malformed and good frames", expects="heads return in order")
def in_order(lab: Lab) -> str:
    """IN_ORDER: buffers return in the order in which they were made available."""
    lab.need(1 << virtio.VIRTIO_F_IN_ORDER)
    a = lab.port(0, VERSION_1 | 1 << virtio.VIRTIO_F_IN_ORDER)
    lab.joined(a, lab.port(1))
    a.sent(lab.patience)
    heads = []
    for number in range(30):
        frame = lab.flow().bare(lab.token().ljust(46, b"\0"))
        if number % 3 == 1:
            frame = frame[:5]
        heads.append(a.queue(frame))
    a.publish()
    returned = [used.head for used in a.sent(lab.patience)]
    expect(returned == heads, f"heads returned in the order {returned}, exposed as {heads}")
    return f"{len(heads)} heads in order"


@check("RF-05", does="accept EVENT_IDX, INDIRECT_DESC, one at a time", expects="frames pass")
def ring_features(lab: Lab) -> str:
    """The ring features work alone."""
    lab.need(EVENT_IDX | INDIRECT)
    b = lab.port(1)
    for bit in (EVENT_IDX, INDIRECT):
        a = lab.port(0, VERSION_1 | bit)
        lab.joined(a, b)
    return "frames pass with each"
