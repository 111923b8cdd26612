"""Opening a tap so that frames keep their checksum state on the way in and out.

How it works: `/dev/net/tun` (`ports.tun`) with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR (spec TP-01) and
a header of 12 bytes, always: the kernel reads and writes only the first 10 (spec TP-02); 12 is what
the rings of every modern guest have, so a guest's header and payload go out in one `writev`
without being moved.  What the kernel takes is tried, not assumed (spec 4.2): it must refuse a
header that points beyond its frame, which shows that it reads headers at all; TUNSETOFFLOAD is
asked for everything, then for less, until it accepts (spec TP-04); and `ports.uplink` sends frames
through it both ways.  What it then may give is the port's to say (`Tap.give`).

An interface that did not exist is made, given its address, MTU, group and IP addresses, and set
up; it disappears when its descriptor is closed.  Given a link-local address it is a router's: the
kernel makes no other one there, and takes no advertisements from guests.  One that existed keeps
its settings, and is left with the header length it had.

A tap that is open already and was found out about (`Tap.described`) is taken as it is (`tap_from`):
one that was opened in another network namespace (`ports.namespace`), or by the process whose work
this one goes on with.  Frames that queued up meanwhile are read like any others.

Invariants: a failed `open` closes what it opened; every failure is a `TapError` of one line.
Trust: the host's kernel and the person who chose the interface.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any, Final

from vionet.engine.status import GSO_ALL, GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UDP4, GSO_UDP6
from vionet.ports import bpf, link, tun, uplink
from vionet.ports.tun import TapError, name_fault, permitted
from vionet.ports.uplink import Findings
from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_LEN, NetHeader

__all__ = ["Tap", "TapError", "name_fault", "open_tap", "permitted", "tap_from"]

# linux/if_tun.h
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_TSO_ECN: Final = 0x08
TUN_F_USO: Final = 0x60  # IPv4 and IPv6: both or neither (spec TP-06)
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNATTACHFILTER: Final = 0x401054D5
_TUNDETACHFILTER: Final = 0x401054D6

_USO: Final = GSO_UDP4 | GSO_UDP6
_TUN_BITS: Final = (
    (TUN_F_TSO4, GSO_TCP4),
    (TUN_F_TSO6, GSO_TCP6),
    (TUN_F_TSO_ECN, GSO_ECN),
    (TUN_F_USO, _USO),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """An open tap; `close` ends it."""

    fd: int  # non-blocking
    name: str
    header_len: int  # of the virtio-net header in front of every frame, both ways
    mtu: int
    findings: Findings  # what its kernel takes and can give
    made: bool  # the interface goes away with the descriptor
    old_header_len: int  # as it was found
    down: bool = False  # it was not set up when it was opened

    def described(self) -> dict[str, Any]:
        """All but the descriptor, to be written as JSON and given to `tap_from`."""
        return {key: value for key, value in asdict(self).items() if key != "fd"}

    def close(self) -> None:
        """Close it; an interface that was here before is left as it was found."""
        try:
            if not self.made:
                # Both may fail: the interface may be gone already.
                with suppress(OSError):
                    tun.set_header_len(self.fd, self.old_header_len)
                with suppress(OSError):
                    fcntl.ioctl(self.fd, _TUNSETOFFLOAD, 0)
        finally:
            os.close(self.fd)

    def give(self, *, partial: bool, gso: int) -> int:
        """Let the kernel send partial checksums and frames of these `GSO_*` bits, no others.

        *returns* the bits that it now may send; they depend on each other (spec TP-04 to TP-06).
        """
        if not gso & (GSO_TCP4 | GSO_TCP6):
            gso &= ~GSO_ECN
        if gso & _USO != _USO:
            gso &= ~_USO
        gso = gso if partial else 0
        bits = sum(bit for bit, needed in _TUN_BITS if needed & gso)
        try:
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, bits | (TUN_F_CSUM if partial else 0))
        except OSError as error:
            if error.errno != errno.EBADFD:  # somebody deleted it: it sends nothing any more
                raise
        return gso

    def filter_destination(self, mac: int) -> None:
        """Have the kernel drop, unread, what is not for `mac`, broadcast or multicast."""
        with bpf.program(bpf.destination_filter(mac)) as program:
            fcntl.ioctl(self.fd, _TUNATTACHFILTER, program)


def open_tap(
    name: str,
    *,
    fd: int | None = None,
    mac: int | None = None,
    mtu: int | None = None,
    address: Sequence[IPv4Interface | IPv6Interface] = (),
    ifgroup: str | None = None,
) -> Tap:
    """Open or make the tap `name`, or take the open descriptor `fd` and own it."""
    if fd is None:
        fd, made = tun.attach(name)
    else:
        made = False
        name = tun.adopt(fd, name)
    try:
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        old_header_len = tun.header_len(fd)
        with _explained(name, "the kernel refused a header of 12 bytes"):
            tun.set_header_len(fd, VIRTIO_NET_HDR_LEN)
        said = _ask(fd)
        if made:
            said = replace(said, warnings=_set_up(name, mac, mtu, address, ifgroup))
        elif address or ifgroup:
            raise TapError(
                f"tap:{name}: exists, and vionet sets up only taps that it makes; leave "
                f"{'address' if address else 'ifgroup'}= out, or `ip link delete {name}` first"
            )
        with _explained(name, "its MTU cannot be read"):
            found_mtu, down = link.mtu(name), not link.link_up(name)
        findings = uplink.examine_tap(fd, name, VIRTIO_NET_HDR_LEN, said)
    except BaseException:
        os.close(fd)
        raise
    return Tap(
        fd=fd,
        name=name,
        header_len=VIRTIO_NET_HDR_LEN,
        mtu=found_mtu,
        findings=findings,
        made=made,
        old_header_len=old_header_len,
        down=down,
    )


def tap_from(fd: int, described: Mapping[str, Any]) -> Tap:
    """The tap `fd`, now owned, which was open already and is as `described`; nothing is tested.

    It may be in any network namespace.  A filter that a predecessor left is taken off.
    """
    try:
        findings = uplink.findings_from(described["findings"])
        tap = Tap(**{**described, "fd": fd, "findings": findings})
        tun.adopt(fd, tap.name)
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        with _explained(tap.name, "the kernel refused its header"):
            fcntl.ioctl(fd, _TUNDETACHFILTER, bytes(16))
            tun.set_header_len(fd, tap.header_len)
    except (KeyError, TypeError) as error:
        os.close(fd)
        problem = f"what is told of it is not understood ({error}); open it anew"
        raise TapError(f"tap:fd={fd}: {problem}") from None
    except BaseException:
        with suppress(OSError):  # it may be what is wrong
            os.close(fd)
        raise
    return tap


def _reads_headers(fd: int) -> bool:
    """Whether the kernel judges a written header: it must refuse a sum beyond the frame.

    A header of 12 bytes and 60 bytes of frame; the checksum is said to start behind them.
    Refused with EINVAL before anything is queued (spec TP-12), whether the interface is up or not.
    """
    header = NetHeader(flags=VIRTIO_NET_HDR_F_NEEDS_CSUM, csum_start=0x4000, csum_offset=16)
    try:
        os.write(fd, header.pack() + bytes(60))
    except OSError as error:
        return error.errno == errno.EINVAL
    return False


def _ask(fd: int) -> Findings:
    """What the kernel admits; switches on all that it knows.  UFO has no effect (spec TP-07).

    What is written may be large in any case (spec TP-09), but USO came with a bit of its own.
    """
    tso = GSO_TCP4 | GSO_TCP6
    takes_partial = _reads_headers(fd)
    for gso in (GSO_ALL, tso | GSO_ECN, tso, 0):
        bits = TUN_F_CSUM + sum(bit for bit, needed in _TUN_BITS if needed & gso)
        with suppress(OSError):
            fcntl.ioctl(fd, _TUNSETOFFLOAD, bits)
            takes = (tso | GSO_ECN | gso & _USO) if takes_partial else 0
            return Findings(takes_partial, takes, True, gso)
    return Findings(takes_partial, tso | GSO_ECN if takes_partial else 0, False, 0)


def _set_up(
    name: str,
    mac: int | None,
    mtu: int | None,
    address: Sequence[IPv4Interface | IPv6Interface],
    ifgroup: str | None,
) -> tuple[str, ...]:
    """Set up what was made; *returns* warnings."""
    with _explained(name, "cannot be set up"):
        if mac is not None:
            link.set_mac(name, mac)
        if mtu is not None:
            link.set_mtu(name, mtu)
    if any(one.is_link_local for one in address if one.version == 6):
        with suppress(FileNotFoundError), _explained(name, "its IPv6 cannot be set"):
            link.set_ipv6(name, "addr_gen_mode", 1)  # no address of the kernel's own
            link.set_ipv6(name, "accept_ra", 0)
    group = None if ifgroup is None else link.group_number(ifgroup)
    with _explained(name, "cannot be set up"):
        if group is not None:
            link.set_group(name, group)
        link.set_link_up(name)
    taken = [one.ip for one in address if link.has_address(one.ip)]
    for one in address:
        with _explained(name, f"address={one} was refused"):
            link.add_address(name, one)
    mend = "frames for it go out there; take another address, or prefix in [local]"
    warnings = [f"address_taken: {name}: {ip} is another interface's too; {mend}" for ip in taken]
    if ifgroup is not None and group is None:
        mend = f"as root: echo '100 {ifgroup}' >>{link.GROUP_FILES[0]}, with a number that is free"
        problem = f"no interface group {ifgroup} on this host; {mend}"
        warnings.append(f"ifgroup_unknown: {name}: {problem}")
    return tuple(warnings)


@contextmanager
def _explained(name: str, problem: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TapError(f"tap:{name}: {problem}: {error.strerror}") from None
