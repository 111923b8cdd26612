"""memcpy over the same pieces moves just what a back-end would move."""

import os

from vionet.bench.copying import Copying
from vionet.bench.frame import GSO_LEN
from vionet.bench.layout import RX, TX
from vionet.bench.passage import large_setting
from vionet.bench.round import Rounds, Setting


def test_copies_are_the_frames() -> None:
    """After a lap the receive buffers hold every frame of both ports, header first, in order."""
    rounds = Rounds(large_setting(Setting(huge=False), 2))
    try:
        for end in range(2):
            rounds.prepare(end, rounds.setting.features)
        rounds.write_frames(GSO_LEN)
        copying = Copying(rounds, both=True)
        assert 4 * (GSO_LEN + 12) == copying.lap_len == copying.working_set // 2
        assert copying.rate(0, min(os.sched_getaffinity(0))) > 0
        for end in range(2):
            tx, rx = rounds.rings[end][TX], rounds.rings[1 - end][RX]
            sent = [tx.memory.read(gpa, n) for chain in range(2) for gpa, n in tx.chain(chain)]
            parts = [rx.memory.read(*rx.chain(i)[0]) for i in range(32)]
            each = GSO_LEN + 12
            found = [b"".join(parts[16 * k : 16 * k + 16])[:each] for k in range(2)]
            assert b"".join(sent) == b"".join(found)
    finally:
        rounds.release()
