"""`vionet bench peers`: every back-end takes the same load, and is what the rows say it is."""

import json
import subprocess
import sys

import pytest

from tests.tools import need, need_root
from vionet.bench.ovs import SWITCH
from vionet.bench.peer import NAMES
from vionet.bench.peers import VIRTIO_USER

TOOLS = ("dpdk-testpmd", "ovsdb-server", "ovs-vsctl", "ovs-ofctl", "unshare", str(SWITCH))


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(400)
def test_peers_quick() -> None:
    """A quick run measures all five under our load and three under DPDK's, and finds no fault.

    Faults would be damaged frames, none at all, sums that vionet did not negotiate, or fewer
    features than another has.
    """
    need_root()
    for tool in TOOLS:
        need(tool)
    argv = [sys.executable, "-m", "vionet", "bench", "peers", "--quick", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=380, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert [] == document["faults"]
    assert {} == document["left_out"]
    rows = {(row["name"], row["subject"]): row for row in document["figures"]}
    cases = [f"{size} B {way}" for size in (64, 1500) for way in ("both ways", "one way")]
    expected = {(case, subject) for case in cases for subject in NAMES.values()}
    expected |= {(f"{n} B virtio-user", NAMES[kind]) for n in (64, 1500) for kind in VIRTIO_USER}
    assert expected == {*rows}
    assert all(0 < row["value"] for row in rows.values())
    compared = {row["goal"] for row in document["figures"]} - {""}
    kinds = ("forward-{}-wire", "forward-{}-switch", "ovs-{}")
    assert {kind.format(size) for kind in kinds for size in (64, 1500)} == compared
    sums = [note for note in document["notes"] if "GUEST_CSUM" in note]
    for name in (NAMES[kind] for kind in VIRTIO_USER):
        assert any(
            note.startswith("negotiated under virtio-user") and name in note for note in sums
        )
