"""Which feature bits a port offers: presets and single features by name.

How it works: `offload=` chooses a preset word, then `+name` and `-name` add and remove single
bits, whatever their order on the line.  A name is the specification's, in lower case, without
`VIRTIO_NET_F_` or `VIRTIO_F_`.  What a removed feature carried goes with it: `-guest_csum` alone
leaves no `guest_tso4`.  What was asked for by name never goes silently: a feature that was added
and lacks another is a mistake, told with the name of what is missing (W24).

A tap and an interface are seen from the kernel behind them as from a driver: `csum` and `host_…`
let the kernel send partial checksums and large frames, `guest_…` let it receive them.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from vionet.config.option import ConfigError, suggest
from vionet.spec import virtio
from vionet.spec import virtio_net as net

_PREFIXES: Final = ("VIRTIO_NET_F_", "VIRTIO_F_", "VHOST_USER_F_", "VHOST_F_")


def short_name(bit: int) -> str:
    """The name of a feature bit as people write it: `guest_csum`."""
    name = virtio.NAMES[bit]
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.lower()


CHECKSUMS: Final = virtio.mask([net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_GUEST_CSUM])
SEGMENTATION: Final = virtio.mask(
    [
        net.VIRTIO_NET_F_HOST_TSO4,
        net.VIRTIO_NET_F_HOST_TSO6,
        net.VIRTIO_NET_F_HOST_ECN,
        net.VIRTIO_NET_F_HOST_USO,
        net.VIRTIO_NET_F_GUEST_TSO4,
        net.VIRTIO_NET_F_GUEST_TSO6,
        net.VIRTIO_NET_F_GUEST_ECN,
        net.VIRTIO_NET_F_GUEST_USO4,
        net.VIRTIO_NET_F_GUEST_USO6,
    ]
)
# What every guest port offers; nobody can switch these off.
FIXED: Final = virtio.mask(
    [virtio.VIRTIO_F_VERSION_1, virtio.VIRTIO_F_ANY_LAYOUT, virtio.VHOST_USER_F_PROTOCOL_FEATURES]
)
_LAYOUT: Final = virtio.mask(
    [
        virtio.VIRTIO_F_INDIRECT_DESC,
        virtio.VIRTIO_F_EVENT_IDX,
        virtio.VIRTIO_F_IN_ORDER,
        net.VIRTIO_NET_F_MRG_RXBUF,
    ]
)
# Only where a port asks for it: QEMU forgets a packed ring's position when its back-end is killed.
_ON_REQUEST: Final = 1 << virtio.VIRTIO_F_RING_PACKED
OFFLOADS: Final = {"full": CHECKSUMS | SEGMENTATION, "csum": CHECKSUMS, "off": 0}
ALL_OFFLOADS: Final = OFFLOADS["full"]
GUEST_BASE: Final = FIXED | _LAYOUT
GUEST_CHOICES: Final = ALL_OFFLOADS | _LAYOUT | _ON_REQUEST
KERNEL_CHOICES: Final = ALL_OFFLOADS
_BITS: Final = {short_name(bit): bit for bit in virtio.NAMES}
_ALWAYS: Final = "it is always offered where it can be"
# Not a choice: they follow from other options or from what the front-end negotiates.
_FOLLOWS: Final = {
    "mac": "use mac=",
    "mtu": "use mtu=",
    "mq": "use queues=",
    "speed_duplex": "use speed=",
    "status": _ALWAYS,
    "version_1": _ALWAYS,
    "any_layout": _ALWAYS,
}


def choice_names(choices: int) -> list[str]:
    """The names that a port with these `choices` understands after `+` and `-`."""
    return [short_name(bit) for bit in range(64) if choices >> bit & 1]


def feature_bit(text: str, where: str, choices: int) -> int:
    """The bit that `+name` or `-name` means; a ConfigError where it is none of `choices`."""
    name = text[1:]
    known = choice_names(choices)
    if name in known:
        return _BITS[name]
    if name in _FOLLOWS:
        raise ConfigError(where, f"{text}: not a choice; {_FOLLOWS[name]}")
    if name in _BITS and name != "protocol_features":
        if GUEST_CHOICES >> _BITS[name] & 1:
            raise ConfigError(where, f"{text}: guests only; this port has {', '.join(known)}")
        raise ConfigError(where, f"{text}: vionet does not have it; leave it out")
    raise ConfigError(where, f"{text}: no such feature; {suggest(name, known)}")


def switched_word(word: int, switched: Mapping[int, bool], where: str) -> int:
    """`word` with single features added and removed, checked for consistency."""
    added = virtio.mask(bit for bit, on in switched.items() if on)
    removed = virtio.mask(bit for bit, on in switched.items() if not on)
    word = word & ~removed | added
    while orphans := virtio.mask(bit for bit, _ in virtio.unmet(word)) & ~added:
        word &= ~orphans
    check_dependencies(word, where, removed)
    return word


def check_dependencies(word: int, where: str, removed: int = 0) -> None:
    """Refuse a word in which a feature lacks what the specification says that it needs."""
    for bit, group in virtio.unmet(word):
        name, needed = short_name(bit), _signed("+", group)
        if all(removed >> other & 1 for other in group):
            mend = f"leave {_signed('-', group, ' and ')} out or +{name} out"
        else:
            mend = f"add {'it' if len(group) == 1 else 'one'} or leave {name} out"
        raise ConfigError(where, f"+{name}: needs {needed}; {mend}")


def _signed(sign: str, group: Iterable[int], joint: str = " or ") -> str:
    return joint.join(f"{sign}{short_name(bit)}" for bit in group)


def preset_of(word: int) -> str:
    """The preset whose offloads `word` has; `custom` where there is none."""
    offloads = word & ALL_OFFLOADS
    return next((name for name, bits in OFFLOADS.items() if bits == offloads), "custom")
