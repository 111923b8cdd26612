"""Entries of the tables in `layout`: small records that kernels reach through their owners."""

from vionet.jit.record import Record


class Region(Record):
    """One piece of guest memory, mapped here: [gpa, gpa + region_len) lies at hva."""

    gpa: int
    region_len: int
    hva: int


class Rule(Record):
    """What one network is to a port, as little-endian loads see addresses (`engine.guard`)."""

    standing: int  # Standing
    version: int  # 4: the address is in `first`; 6: in both
    first: int
    first_mask: int
    second: int
    second_mask: int


class FdbEntry(Record):
    """One address: key is 0 for an empty slot, else the MAC address plus VLAN above bit 48."""

    key: int
    port: int
    seen_ns: int
    fixed: int  # a locked port's own address: never moves, never ages


class Late(Record):
    """One delivery that is decided and still to be written (`deliver_guest.flush`)."""

    dst_hva: int
    header_len: int
    header: int  # the first 8 bytes of the virtio-net header
    csum_offset: int
    head_hva: int
    head_len: int
    src_hva: int  # the rest, in one piece
    rest: int
    used_hva: int  # its used entry, and what to write there
    used: int
    action: int  # FILL or VERIFY: its L4 checksum is settled while the rest is copied; else 0
    l4_off: int  # for that: where the L4 header begins, where its field is, and its seed
    field: int
    seed: int
    out: int
