"""Virtio: reserved feature bits, split-ring layout, and the rules that tie feature bits together.

Sources: VIRTIO 1.2 chapters 2 and 6, section 5.1.3; vhost-user for bits 26 and 30.
Feature bits are given as bit numbers; `mask` makes a word of them.
"""

from collections.abc import Iterable
from typing import Final

from vionet.spec import virtio_net as net

# --- reserved feature bits (spec RF-05) -------------------------------------------------------
VIRTIO_F_NOTIFY_ON_EMPTY: Final = 24
VIRTIO_F_ANY_LAYOUT: Final = 27
VIRTIO_F_INDIRECT_DESC: Final = 28
VIRTIO_F_EVENT_IDX: Final = 29
VIRTIO_F_VERSION_1: Final = 32
VIRTIO_F_ACCESS_PLATFORM: Final = 33
VIRTIO_F_RING_PACKED: Final = 34
VIRTIO_F_IN_ORDER: Final = 35
VIRTIO_F_ORDER_PLATFORM: Final = 36
VIRTIO_F_SR_IOV: Final = 37
VIRTIO_F_NOTIFICATION_DATA: Final = 38
VIRTIO_F_NOTIF_CONFIG_DATA: Final = 39
VIRTIO_F_RING_RESET: Final = 40
VIRTIO_F_ADMIN_VQ: Final = 41

# vhost-user's own bits in the same word (spec VU-12, VU-56).
VHOST_F_LOG_ALL: Final = 26
VHOST_USER_F_PROTOCOL_FEATURES: Final = 30

# --- split ring (VIRTIO 1.2 section 2.7; spec SP-01) ------------------------------------------
VRING_DESC_F_NEXT: Final = 1
VRING_DESC_F_WRITE: Final = 2
VRING_DESC_F_INDIRECT: Final = 4
VRING_DESC_LEN: Final = 16  # le64 addr, le32 len, le16 flags, le16 next
VRING_DESC_ALIGN: Final = 16
VRING_AVAIL_ALIGN: Final = 2
VRING_USED_ALIGN: Final = 4
VRING_AVAIL_F_NO_INTERRUPT: Final = 1
VRING_USED_F_NO_NOTIFY: Final = 1
VRING_SIZE_MAX: Final = 32768

# --- packed ring (VIRTIO 1.2 section 2.8; spec PK-01) -----------------------------------------
# le64 addr, le32 len, le16 id, le16 flags; the flags of the split ring and two more
VRING_PACKED_DESC_F_AVAIL: Final = 7  # bit numbers
VRING_PACKED_DESC_F_USED: Final = 15
VRING_PACKED_EVENT_LEN: Final = 4  # le16 slot and wrap counter, le16 flags
VRING_PACKED_EVENT_ALIGN: Final = 4
VRING_PACKED_EVENT_FLAG_ENABLE: Final = 0
VRING_PACKED_EVENT_FLAG_DISABLE: Final = 1
VRING_PACKED_EVENT_FLAG_DESC: Final = 2
VRING_PACKED_EVENT_F_WRAP_CTR: Final = 15  # bit number


def vring_desc_len(size: int) -> int:
    """Bytes of the descriptor table of a split ring of `size` entries."""
    return VRING_DESC_LEN * size


def vring_avail_len(size: int) -> int:
    """Bytes of the available ring, `used_event` included."""
    return 6 + 2 * size


def vring_used_len(size: int) -> int:
    """Bytes of the used ring, `avail_event` included."""
    return 6 + 8 * size


# --- names ------------------------------------------------------------------------------------
NAMES: Final[dict[int, str]] = {
    value: name
    for source in (vars(net), globals())
    for name, value in sorted(source.items())
    if name.startswith(("VIRTIO_F_", "VIRTIO_NET_F_", "VHOST_F_", "VHOST_USER_F_"))
}
BITS: Final[dict[str, int]] = {name: bit for bit, name in NAMES.items()}


def mask(bits: Iterable[int]) -> int:
    """The feature word that has exactly `bits` set."""
    word = 0
    for bit in bits:
        word |= 1 << bit
    return word


def names(word: int) -> list[str]:
    """The specification's names of the bits in `word`, in the order of the bits."""
    return [NAMES.get(bit, f"bit {bit}") for bit in range(64) if word >> bit & 1]


# --- dependencies (VIRTIO 1.2 section 5.1.3.1; spec FB-06 to FB-33, ERR-13) -------------------
# bit -> groups; of each group at least one bit has to be there.
REQUIRES: Final[dict[int, tuple[tuple[int, ...], ...]]] = {
    net.VIRTIO_NET_F_GUEST_TSO4: ((net.VIRTIO_NET_F_GUEST_CSUM,),),
    net.VIRTIO_NET_F_GUEST_TSO6: ((net.VIRTIO_NET_F_GUEST_CSUM,),),
    net.VIRTIO_NET_F_GUEST_ECN: ((net.VIRTIO_NET_F_GUEST_TSO4, net.VIRTIO_NET_F_GUEST_TSO6),),
    net.VIRTIO_NET_F_GUEST_UFO: ((net.VIRTIO_NET_F_GUEST_CSUM,),),
    net.VIRTIO_NET_F_GUEST_USO4: ((net.VIRTIO_NET_F_GUEST_CSUM,),),
    net.VIRTIO_NET_F_GUEST_USO6: ((net.VIRTIO_NET_F_GUEST_CSUM,),),
    net.VIRTIO_NET_F_HOST_TSO4: ((net.VIRTIO_NET_F_CSUM,),),
    net.VIRTIO_NET_F_HOST_TSO6: ((net.VIRTIO_NET_F_CSUM,),),
    net.VIRTIO_NET_F_HOST_ECN: ((net.VIRTIO_NET_F_HOST_TSO4, net.VIRTIO_NET_F_HOST_TSO6),),
    net.VIRTIO_NET_F_HOST_UFO: ((net.VIRTIO_NET_F_CSUM,),),
    net.VIRTIO_NET_F_HOST_USO: ((net.VIRTIO_NET_F_CSUM,),),
    net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_CTRL_RX: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_CTRL_VLAN: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_CTRL_RX_EXTRA: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_GUEST_ANNOUNCE: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_MQ: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_CTRL_MAC_ADDR: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_DEVICE_STATS: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_HASH_TUNNEL: (
        (net.VIRTIO_NET_F_CTRL_VQ,),
        (net.VIRTIO_NET_F_RSS, net.VIRTIO_NET_F_HASH_REPORT),
    ),
    net.VIRTIO_NET_F_VQ_NOTF_COAL: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_NOTF_COAL: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_HASH_REPORT: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_RSS: ((net.VIRTIO_NET_F_CTRL_VQ,),),
    net.VIRTIO_NET_F_RSC_EXT: ((net.VIRTIO_NET_F_HOST_TSO4, net.VIRTIO_NET_F_HOST_TSO6),),
}


def unmet(word: int) -> list[tuple[int, tuple[int, ...]]]:
    """Each (bit, group) where `word` has the bit and none of the group that it needs."""
    return [
        (bit, group)
        for bit, groups in REQUIRES.items()
        if word >> bit & 1
        for group in groups
        if not word & mask(group)
    ]
