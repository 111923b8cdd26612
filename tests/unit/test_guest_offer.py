"""What a guest port offers its front-end."""

import pytest

from tests.reference.plug import FULL, Bare, Options, slot
from vionet.engine.layout import State
from vionet.jit.record import allocate
from vionet.ports.guest import GuestPort
from vionet.spec import vhost_user as vu
from vionet.spec import virtio
from vionet.spec import virtio_net as net


@pytest.mark.parametrize("queues", [1, 2])
def test_memory_regions_one_by_one(queues: int) -> None:
    """Several pairs come with SET_MEM_TABLE alone: QEMU before 8.1 would add every region once for
    each pair, be refused the second time, and go on without its device."""
    port = GuestPort(slot(Bare(allocate(State)), 0), Options(features=FULL, queues=queues))
    offer = port.offer()
    slots = offer.protocol_features >> vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS & 1
    assert (queues == 1) == bool(slots)
    assert (queues > 1) == bool(offer.features >> net.VIRTIO_NET_F_MQ & 1)
    assert [] == virtio.unmet(offer.features)
