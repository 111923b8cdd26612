"""Which feature bits a port offers: presets and single features by name.

How it works: `offload=` chooses a preset word, then `+name` and `-name` add and remove single
bits, whatever their order on the line.  A name is the specification's, in lower case, without
`VIRTIO_NET_F_` or `VIRTIO_F_`.  The result is checked against the specification's dependencies.

A tap offers only `csum` and `guest_csum`, seen from the kernel behind it as from a driver: `csum`
lets the kernel send partial checksums, `guest_csum` lets it receive them.
"""

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
# What every guest port offers; nobody can switch these off.
FIXED: Final = virtio.mask(
    [
        virtio.VIRTIO_F_VERSION_1,
        virtio.VIRTIO_F_ANY_LAYOUT,
        virtio.VHOST_USER_F_PROTOCOL_FEATURES,
    ]
)
_LAYOUT: Final = virtio.mask(
    [
        virtio.VIRTIO_F_INDIRECT_DESC,
        virtio.VIRTIO_F_EVENT_IDX,
        net.VIRTIO_NET_F_MRG_RXBUF,
    ]
)
# Presets.  `full` will add segmentation when it is built.
OFFLOADS: Final = {"full": CHECKSUMS, "csum": CHECKSUMS, "off": 0}
GUEST_BASE: Final = FIXED | _LAYOUT
GUEST_CHOICES: Final = CHECKSUMS | _LAYOUT
TAP_CHOICES: Final = CHECKSUMS
_BITS: Final = {short_name(bit): bit for bit in virtio.NAMES}
# Not a choice: they follow from other options or from what the front-end negotiates.
_FOLLOWS: Final = {"mac": "mac=", "mtu": "mtu=", "status": "", "version_1": "", "any_layout": ""}


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
        mend = f"use {_FOLLOWS[name]}" if _FOLLOWS[name] else "it is always offered where it can be"
        raise ConfigError(where, f"{text}: not a choice; {mend}")
    if name in _BITS and _BITS[name] not in (virtio.VHOST_USER_F_PROTOCOL_FEATURES,):
        if GUEST_CHOICES >> _BITS[name] & 1:
            raise ConfigError(where, f"{text}: a tap has no such feature; use {', '.join(known)}")
        raise ConfigError(where, f"{text}: not built yet; leave it out")
    raise ConfigError(where, f"{text}: no such feature; {suggest(name, known)}")


def check_dependencies(word: int, where: str) -> None:
    """Refuse a word in which a feature lacks what the specification says that it needs."""
    for bit, group in virtio.unmet(word):
        needed = " or ".join(f"+{short_name(other)}" for other in group)
        name = short_name(bit)
        raise ConfigError(where, f"+{name}: needs {needed}; add it or leave {name} out")
