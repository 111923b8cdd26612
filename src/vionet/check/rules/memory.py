"""Area 3.3: guest memory, its regions and its edges."""

import os
import time

from vionet.check.case import Lab, check
from vionet.check.driver import TX, Port
from vionet.check.ring import Piece
from vionet.check.rules.config import refused
from vionet.check.rules.protocol import descriptors
from vionet.check.verdict import during, expect, same
from vionet.spec import vhost_user as vu
from vionet.spec.vhost_user import Request
from vionet.vhost_user.frontend import pack_region
from vionet.vhost_user.guest_memory import GuestMemory

SLOTS = 1 << vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS
MIB = 1 << 20


def _send_at(lab: Lab, a: Port, pieces: list[Piece]) -> None:
    a.tx.expose(a.tx.chain(pieces))
    a.publish()


def _from_region(lab: Lab, a: Port, b: Port, number: int) -> None:
    """A frame whose bytes lie in one region passes."""
    token = lab.token()
    data = bytes(a.hdr_len) + lab.flow().bare(token.ljust(60, b"\0"))
    gpa = a.memory.allocate(len(data), region=number)
    a.memory.write(gpa, data)
    _send_at(lab, a, [Piece(gpa, len(data))])
    with during(f"from region {number}"):
        same(b.collect(token, lab.patience), data[a.hdr_len :])
        a.sent(lab.patience)


@check(
    "VU-46",
    does="send the memory table again, with one more region, under traffic",
    expects="frames pass",
)
def table_replaced(lab: Lab) -> str:
    """SET_MEM_TABLE replaces the table, also under running rings."""
    a = lab.open(0, memory=GuestMemory((8 * MIB, 2 * MIB)))
    b = lab.port(1)
    regions = list(a.memory.regions)
    a.fill(32)
    a.frontend.set_mem_table(regions[:1])
    for index in (0, 1):
        a.set_up(index)
    a.enable()
    lab.joined(a, b)
    for number in range(10):
        a.frontend.set_mem_table(regions if number % 2 == 0 else regions[:1])
        _from_region(lab, a, b, 0)
        if number % 2 == 0:
            _from_region(lab, a, b, 1)
        b.fill(2)
    lab.joined(b, a)
    return "ten tables, frames pass from all regions"


@check("VU-47", does="three regions with offsets into their files", expects="frames pass from each")
def region_offsets(lab: Lab) -> str:
    """The mmap offset says where a region begins in its file."""
    a = lab.port(0, memory=GuestMemory((8 * MIB, MIB, MIB), mmap_offset=0x5000))
    b = lab.port(1, memory=GuestMemory((8 * MIB,), mmap_offset=0x200000))
    lab.joined(a, b)
    for number in range(3):
        _from_region(lab, a, b, number)
    lab.joined(b, a)
    return "frames pass from three regions"


@check(
    "VU-48",
    does="guest and user addresses that mean other things in the other range",
    expects="frames pass",
)
def two_address_spaces(lab: Lab) -> str:
    """Descriptors have guest addresses, rings user addresses."""
    low = GuestMemory((8 * MIB, 8 * MIB), gpa_base=0x1000, uva_base=0x1000 + 8 * MIB, gap=0)
    a = lab.port(0, memory=low)
    b = lab.port(1)
    lab.joined(a, b)
    _from_region(lab, a, b, 1)
    lab.joined(b, a)
    return "frames pass"


@check("VU-49", does="buffers over the border of two adjacent regions", expects="right, or dropped")
def over_the_border(lab: Lab) -> str:
    """A descriptor may cross regions."""
    a = lab.port(0, memory=GuestMemory((8 * MIB, MIB), gap=0))
    b = lab.port(1)
    lab.joined(a, b)
    border = a.memory.regions[1].gpa
    token = lab.token()
    data = bytes(a.hdr_len) + lab.flow().bare(token.ljust(200, b"\x31"))
    a.memory.write(border - 100, data[:100])
    a.memory.write(border, data[100:])
    a.sent(lab.patience)
    _send_at(lab, a, [Piece(border - 100, len(data))])
    a.sent(lab.patience)
    if (delivery := lab.arrival(a, b, token)) is not None:
        return "delivered, " + same(delivery, data[a.hdr_len :])
    return "dropped, the chain returned"


@check("VU-50", does="descriptors at addresses that are not memory", expects="returned, no harm")
def not_memory(lab: Lab) -> str:
    """An address that is not mapped, or wraps."""
    a, b = lab.pair()
    a.sent(lab.patience)
    region = a.memory.regions[0]
    places = (0xFFFFFFFFFFFFF000, 0xFFFFFFFFFFFFFFF0, 0, region.gpa + region.size - 20, region.uva)
    for gpa in places:
        for pieces in ([Piece(gpa, 200)], [Piece(a.place(bytes(12)), 12), Piece(gpa, 200)]):
            _send_at(lab, a, pieces)
            with during(f"address {gpa:#x}"):
                used = a.sent(lab.patience)
            expect(len(used) == 1, f"address {gpa:#x}: {len(used)} entries")
    lab.joined(a, b)
    return "returned, and frames still pass"


@check(
    "VU-51",
    does="add, use and remove memory regions",
    expects="frames pass; removed memory is not used",
)
def slots(lab: Lab) -> str:
    """ADD_MEM_REG and REM_MEM_REG."""
    lab.need(protocol=SLOTS)
    a = lab.open(0, memory=GuestMemory((8 * MIB,) + (MIB,) * 9))
    most = a.frontend.max_mem_slots()
    expect(most >= 1, f"GET_MAX_MEM_SLOTS is {most}")
    b = lab.port(1)
    regions = list(a.memory.regions)[: min(most, 10)]
    for region in regions:
        a.frontend.add_mem_reg(region)
    a.fill(16)
    for index in (0, 1):
        a.set_up(index)
    a.enable()
    lab.joined(a, b)
    for number in range(len(regions)):
        _from_region(lab, a, b, number)
    for region in regions[1:]:
        a.frontend.rem_mem_reg(region)
    if len(regions) > 1:
        a.sent(lab.patience)
        _send_at(lab, a, [Piece(regions[1].gpa, 100)])
        a.sent(lab.patience)
    lab.joined(a, b)
    return f"{most} slots; {len(regions)} regions added, {len(regions) - 1} removed"


@check("VU-52", does="REM_MEM_REG with a descriptor, 50 times", expects="closed, not kept", ports=1)
def removal_descriptor(lab: Lab) -> str:
    """A descriptor that comes with REM_MEM_REG is closed."""
    lab.need(protocol=SLOTS)
    a = lab.open(0, memory=GuestMemory((MIB, MIB)))
    first, second = a.memory.regions
    a.frontend.add_mem_reg(first)
    a.frontend.synchronise()
    before = descriptors(a.frontend)
    payload = vu.U64.pack(0) + pack_region(second)
    for _ in range(50):
        a.frontend.add_mem_reg(second)
        how = refused(lambda: a.frontend.tell(Request.REM_MEM_REG, payload, [second.fd]))
        if how:
            return f"refused: {how}"
    a.frontend.synchronise()
    after = descriptors(a.frontend)
    expect(after <= before + 2, f"{before} descriptors before, {after} after")
    return f"{before} descriptors before, {after} after"


@check("VU-54", does="truncate a memory file whose bytes are being sent", expects="survival")
def truncated(lab: Lab) -> str:
    """A front-end that shrinks its memory harms itself only."""
    a = lab.port(0, memory=GuestMemory((8 * MIB, 2 * MIB)))
    b = lab.port(1)
    lab.joined(a, b)
    region = a.memory.regions[1]
    os.ftruncate(region.fd, 0)
    for number in range(20):
        _send_at(lab, a, [Piece(region.gpa + 4096 * number, 1000)])
    a.wait(lambda: a.tx.fresh >= 20, TX, time.monotonic() + 0.2)
    return lab.survived(b)


@check("VU-55", does="GET_PROTOCOL_FEATURES", expects="no GPA_ADDRESSES", ports=1)
def no_gpa_addresses(lab: Lab) -> str:
    """Bit 21 only where it is known what it means."""
    expect(not lab.offer.protocol_features >> 21 & 1, "bit 21 is offered")
    return "not offered"
