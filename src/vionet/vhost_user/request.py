"""What each request looks like: payload, descriptors, the protocol feature that it needs.

How it works: `FORMS` has one row for every request that this back-end knows.  `arguments` takes a
message, checks its size and its descriptors against the row, and gives back plain numbers.
A request without a row, or whose protocol feature was not negotiated, is refused.

Trust: everything in a message is the front-end's; sizes and counts are compared before anything is
unpacked.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

from vionet.spec import vhost_user as vu
from vionet.spec.vhost_user import Request
from vionet.vhost_user.message import Message


class Refusal(Exception):
    """The request cannot be fulfilled; nothing was changed.

    The front-end is told if it asked to be (spec VU-08), otherwise its session ends, because the
    two ends would no longer agree about what was set.
    """


class Fds(Enum):
    """How many descriptors a request carries.  Surplus ones are closed, unused."""

    NONE = "none"
    ONE = "one"
    UNLESS_NOFD = "one, unless the no-fd bit is set"
    REGIONS = "one for each region"


class RegionSpec(NamedTuple):
    """One piece of guest memory as the front-end describes it."""

    gpa: int
    size: int
    uva: int
    mmap_offset: int


Arguments = tuple[Any, ...]


def _fixed(layout: struct.Struct) -> Callable[[bytes], Arguments]:
    def unpack(payload: bytes) -> Arguments:
        if len(payload) != layout.size:
            raise Refusal(f"{len(payload)} bytes of payload, expected {layout.size}")
        return layout.unpack(payload)

    return unpack


def _vring_fd(payload: bytes) -> Arguments:
    """Give back (index, no-fd bit)."""
    (word,) = _u64(payload)
    if word & ~(vu.VRING_INDEX_MASK | vu.VRING_NOFD):
        raise Refusal(f"unknown bits in {word:#x}")
    return word & vu.VRING_INDEX_MASK, bool(word & vu.VRING_NOFD)


def _mem_table(payload: bytes) -> Arguments:
    """Give back the regions.  User Mode Linux sends room for one more than it has."""
    head, most = vu.MEM_TABLE_HEAD.size, vu.MEM_TABLE_REGIONS_MAX
    if len(payload) < head:
        raise Refusal(f"{len(payload)} bytes of payload, expected at least {head}")
    count, _ = vu.MEM_TABLE_HEAD.unpack_from(payload)
    end = head + count * vu.MEM_REGION.size
    if count > most:
        raise Refusal(f"{count} regions, at most {most}")
    if not end <= len(payload) <= head + most * vu.MEM_REGION.size:
        raise Refusal(f"{len(payload)} bytes of payload for {count} regions")
    regions = vu.MEM_REGION.iter_unpack(payload[head:end])
    return tuple(RegionSpec(*fields) for fields in regions)


def _mem_region(payload: bytes) -> Arguments:
    """Give back one region."""
    return (RegionSpec(*_fixed(vu.MEM_REGION_MESSAGE)(payload)[1:]),)


def _config(payload: bytes) -> Arguments:
    """Give back (offset, size, flags, data); the data has `size` bytes."""
    head = vu.CONFIG_HEAD.size
    if len(payload) < head:
        raise Refusal(f"{len(payload)} bytes of payload, expected at least {head}")
    offset, size, flags = vu.CONFIG_HEAD.unpack_from(payload)
    if size > vu.CONFIG_SIZE_MAX or len(payload) != head + size:
        raise Refusal(f"{len(payload)} bytes of payload for {size} of configuration")
    return offset, size, flags, payload[head:]


_none: Final = _fixed(struct.Struct("="))
_u64: Final = _fixed(vu.U64)
_state: Final = _fixed(vu.VRING_STATE)


@dataclass(frozen=True, slots=True)
class Form:
    """One row: how to read the payload, which descriptors come along, what is needed."""

    unpack: Callable[[bytes], Arguments]
    fds: Fds = Fds.NONE
    requires: int | None = None  # a protocol feature


FORMS: Final[dict[int, Form]] = {
    Request.GET_FEATURES: Form(_none),
    Request.SET_FEATURES: Form(_u64),
    Request.SET_OWNER: Form(_none),
    Request.RESET_OWNER: Form(_none),
    Request.SET_MEM_TABLE: Form(_mem_table, Fds.REGIONS),
    Request.SET_LOG_FD: Form(_none, Fds.ONE),
    Request.SET_VRING_NUM: Form(_state),
    Request.SET_VRING_ADDR: Form(_fixed(vu.VRING_ADDR)),
    Request.SET_VRING_BASE: Form(_state),
    Request.GET_VRING_BASE: Form(_state),
    Request.SET_VRING_KICK: Form(_vring_fd, Fds.UNLESS_NOFD),
    Request.SET_VRING_CALL: Form(_vring_fd, Fds.UNLESS_NOFD),
    Request.SET_VRING_ERR: Form(_vring_fd, Fds.UNLESS_NOFD),
    Request.GET_PROTOCOL_FEATURES: Form(_none),
    Request.SET_PROTOCOL_FEATURES: Form(_u64),
    Request.GET_QUEUE_NUM: Form(_none, requires=vu.VHOST_USER_PROTOCOL_F_MQ),
    Request.SET_VRING_ENABLE: Form(_state),
    Request.SET_VRING_ENDIAN: Form(_state),
    Request.NET_SET_MTU: Form(_u64, requires=vu.VHOST_USER_PROTOCOL_F_MTU),
    Request.SET_BACKEND_REQ_FD: Form(_none, Fds.ONE, requires=vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ),
    Request.GET_CONFIG: Form(_config, requires=vu.VHOST_USER_PROTOCOL_F_CONFIG),
    Request.SET_CONFIG: Form(_config, requires=vu.VHOST_USER_PROTOCOL_F_CONFIG),
    Request.RESET_DEVICE: Form(_none, requires=vu.VHOST_USER_PROTOCOL_F_RESET_DEVICE),
    Request.GET_MAX_MEM_SLOTS: Form(_none, requires=vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS),
    Request.ADD_MEM_REG: Form(
        _mem_region, Fds.ONE, requires=vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS
    ),
    Request.REM_MEM_REG: Form(_mem_region, requires=vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS),
}


def form_of(message: Message, protocol_features: int) -> Form:
    """The row of `message`; raises `Refusal` if there is none or it was not negotiated."""
    form = FORMS.get(message.request)
    if form is None:
        raise Refusal("unknown request")
    if form.requires is not None and not protocol_features >> form.requires & 1:
        raise Refusal(f"{vu.PROTOCOL_NAMES[form.requires]} was not negotiated")
    return form


def arguments(message: Message, form: Form) -> Arguments:
    """The payload's fields; raises `Refusal` on a wrong size or a missing descriptor."""
    fields = form.unpack(message.payload)
    count = len(message.fds)
    match form.fds:
        case Fds.NONE:
            return fields
        case Fds.ONE if count != 1:
            raise Refusal(f"{count} file descriptors, expected 1")
        case Fds.UNLESS_NOFD if not fields[1] and count != 1:
            raise Refusal(f"{count} file descriptors, expected 1")
        case Fds.REGIONS if count != len(fields):
            raise Refusal(f"{count} file descriptors for {len(fields)} regions")
    return fields
