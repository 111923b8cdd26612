"""Ports that come and go on a running fabric: slots are used again, and nothing is left in them."""

import socket
from typing import Any

import numpy as np
import pytest

from tests.reference.plug import FULL, Options
from tests.unit.test_engine_worker import Wired
from tests.unit.test_workers import EVERYBODY, MACS, TURNS, Busy, Witness, numbered, settled, switch
from vionet.engine.status import FabricKind, PortKind
from vionet.fabric import Fabric


def leave(guest: Wired) -> None:
    """End the session and unplug."""
    guest.unplug()
    guest.fabric.remove(guest.port)


@pytest.mark.parametrize("workers", [1, 2])
def test_slot_is_used_again(workers: int) -> None:
    """A removed port leaves no address, no counter, no option; its slot and its place at a worker
    are the next port's, and the others' frames pass meanwhile."""
    with switch(3, workers) as (fabric, guests):
        one, other, leaver = guests
        witness = Witness(other)
        witness.look()
        one.offer_to(other.mac, 16)
        leaver.offer_to(other.mac, 16)
        settled(guests)
        witness.look()
        assert 17 == leaver.ledger["tx_frames"]
        index, worker = leaver.index, int(leaver.record.worker)
        leave(leaver)
        guests.remove(leaver)
        record = fabric._state.ports[index]
        assert (int(PortKind.FREE), 0, 0, 0) == (
            record.kind, record.up, record.fdb_count, record.n_regions,
        )  # fmt: skip
        assert ([one.port, other.port], 2) == (fabric.ports, fabric._state.n_ports)
        one.offer([numbered(one.mac, leaver.mac, one.sent)])  # flooded: nobody has that address
        one.sent += 1
        settled(guests)
        before = witness.count
        witness.look()
        assert before + 1 == witness.count
        comer = Busy(fabric, FULL, polled=True)
        guests.append(comer)
        comer.mac = leaver.mac
        assert (index, worker) == (comer.port._slot.index, int(comer.record.worker))
        assert ({}, {}) == (comer.ledger, comer.drops)
        comer.offer_to(other.mac, 16)
        settled(guests)
        witness.last[comer.mac] = -1
        witness.look()
        assert 16 == comer.ledger["tx_frames"]
        assert before + 17 == witness.count


def test_ports_come_and_go_under_load() -> None:
    """Frames of two workers' guests keep coming, all of them or counted, while a third guest and a
    stream are plugged in and out again and again."""
    with switch(2) as (fabric, guests):
        witnesses = [Witness(guest) for guest in guests]
        for turn in range(TURNS):
            stream = fabric.add_stream(Options())
            near, far = socket.socketpair()
            stream.attach(near)
            comer = Busy(fabric, FULL, polled=True)
            comer.refill()
            for guest, witness in zip(guests, witnesses, strict=True):
                guest.offer_to(EVERYBODY, 16)
                witness.look()
            comer.offer([numbered(MACS[2], EVERYBODY, turn + 1)])
            leave(comer)
            fabric.remove(stream)
            far.close()
        settled(guests)
        for witness in witnesses:
            witness.look()
        full = sum(guest.drops.get("rx_ring_full", 0) for guest in guests)
        got = sum(witness.count for witness in witnesses)
        assert 2 * TURNS * 16 <= got + full <= 2 * TURNS * 17, (
            "the comer's own may have stayed behind"
        )
        assert (2, 2) == (len(fabric.ports), fabric._state.n_ports)


def test_a_fabric_that_is_full() -> None:
    """Beyond the most ports one is refused; after one has left there is room, in the gap."""
    fabric = Fabric(FabricKind.WIRE)
    try:
        first, _ = (fabric.add_guest(Options()) for _ in range(2))
        with pytest.raises(ValueError, match="a wire has at most 2 ports"):
            fabric.add_guest(Options())
        fabric.remove(first)
        assert 2 == fabric._state.n_ports
        assert 0 == fabric.add_guest(Options())._slot.index
    finally:
        fabric.close()


def test_locked_address_leaves_with_its_port() -> None:
    """The address of a locked port is nobody's after it was removed."""
    fabric = Fabric(FabricKind.SWITCH)
    try:
        port = fabric.add_guest(Options(mac=MACS[0], locked=True))
        assert 1 == fabric._state.ports[0].fdb_count
        fabric.remove(port)
        table: Any = np.asarray(fabric._state.fdb)
        assert not table["key"].any()
    finally:
        fabric.close()
