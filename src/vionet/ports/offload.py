"""What a feature word means for segmentation: pure tables, in the engine's GSO bits.

A word is the driver's: HOST_* say what it may send, GUEST_* what it takes.  A feature that lacks
one that it needs is never used (spec FB-06 to FB-13, FB-27 to FB-29).

Deviation from spec DS-04: a front-end that acknowledges TSO without the checksum feature under it
is not refused, because vhost-user has no FEATURES_OK to refuse it by, and QEMU passes such a set
on when a person switches only `guest_csum` off.  The feature then does nothing (spec FB-06).
"""

from typing import Final

from vionet.engine.status import GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UDP4, GSO_UDP6
from vionet.spec import virtio
from vionet.spec import virtio_net as net

_SENDS: Final = {
    net.VIRTIO_NET_F_HOST_TSO4: GSO_TCP4,
    net.VIRTIO_NET_F_HOST_TSO6: GSO_TCP6,
    net.VIRTIO_NET_F_HOST_ECN: GSO_ECN,
    net.VIRTIO_NET_F_HOST_USO: GSO_UDP4 | GSO_UDP6,
}
_TAKES: Final = {
    net.VIRTIO_NET_F_GUEST_TSO4: GSO_TCP4,
    net.VIRTIO_NET_F_GUEST_TSO6: GSO_TCP6,
    net.VIRTIO_NET_F_GUEST_ECN: GSO_ECN,
    net.VIRTIO_NET_F_GUEST_USO4: GSO_UDP4,
    net.VIRTIO_NET_F_GUEST_USO6: GSO_UDP6,
}
# What a driver may switch at run time (spec CV-30).
GUEST_OFFLOADS: Final = virtio.mask((net.VIRTIO_NET_F_GUEST_CSUM, *_TAKES))
_SEGMENTATION: Final = virtio.mask((*_SENDS, *_TAKES))


def usable(word: int) -> int:
    """`word` without the segmentation features that lack what they need."""
    while orphans := virtio.mask(bit for bit, _ in virtio.unmet(word)) & _SEGMENTATION:
        word &= ~orphans
    return word


def sends_gso(word: int) -> int:
    """GSO_* bits of what a driver with these features may send."""
    return _gathered(_SENDS, word)


def takes_gso(word: int) -> int:
    """GSO_* bits of what may be delivered to it whole."""
    return _gathered(_TAKES, word)


def _gathered(table: dict[int, int], word: int) -> int:
    word = usable(word)
    found = 0
    for bit, gso in table.items():
        if word >> bit & 1:
            found |= gso
    return found


def limited(word: int, sends: int, takes: int) -> int:
    """`word` without what may not be sent or taken (GSO_* bits), nor what lacks what it needs."""
    for table, allowed in ((_SENDS, sends), (_TAKES, takes)):
        word &= ~virtio.mask(bit for bit, gso in table.items() if gso & ~allowed)
    return usable(word)
