"""`vionet bench peers` without its peers: command lines, logs, ratios, what is unfair."""

import os
from pathlib import Path

import click
import pytest

from vionet.bench import dpdk
from vionet.bench.command import chosen
from vionet.bench.comparison import Case
from vionet.bench.ovs import OpenVSwitch
from vionet.bench.peer import Peer, logged_features, mask_of
from vionet.bench.peers import feature_faults, feature_notes, figures_of
from vionet.bench.place import other_core
from vionet.bench.virtio_user import VirtioUser, bounce
from vionet.spec import virtio
from vionet.spec import virtio_net as net

BOTH = Case(64, "both")
SUMS = virtio.mask((net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_GUEST_CSUM))
STATISTICS = """
  ######################## NIC statistics for port {port}  ########################
  RX-packets: {packets}     RX-missed: 0          RX-bytes:  {octets}
  RX-errors: 0
  TX-packets: 7             TX-errors: 0          TX-bytes:  8

  Throughput (since last show)
  Rx-pps:       {pps}          Rx-bps:    347764392
  Tx-pps:       5              Tx-bps:    6
"""


def after(word: str, argv: list[str]) -> str:
    """The argument that follows `word`."""
    return argv[argv.index(word) + 1]


def test_testpmd_polls_on_its_core_only(tmp_path: Path) -> None:
    """The forwarding thread is on the measured core, the other thread elsewhere; no file stays."""
    argv = Peer("testpmd", tmp_path, 0).argv()
    assert f"0@{other_core(0)},1@0" == after("--lcores", argv)
    assert "--in-memory" in argv
    assert f"net_vhost0,iface={tmp_path}/testpmd/a" == after("--vdev", argv)
    assert "--forward-mode=io" in argv[argv.index("--") :]


def test_vionet_is_confined_to_its_core(tmp_path: Path) -> None:
    """All of vionet's threads are; a wire's ports have no names."""
    wire, switch = (Peer(f"vionet-{kind}", tmp_path, 1).argv() for kind in ("wire", "switch"))
    assert ["taskset", "-c", "1"] == wire[:3] == switch[:3]
    assert f"guest:{tmp_path}/vionet-wire/b" == wire[-1]
    assert f"b=guest:{tmp_path}/vionet-switch/b" == switch[-1]


def test_open_vswitch_is_told_its_cores(tmp_path: Path) -> None:
    """Masks of cores, and everything that it writes in our folder."""
    switch = OpenVSwitch("ovs-normal", tmp_path, 1)
    assert "0x2" == switch.settings()["pmd-cpu-mask"]
    assert hex(1 << other_core(1)) == switch.settings()["dpdk-lcore-mask"]
    assert {str(tmp_path / "ovs-normal")} == {*switch.environment().values()}


def test_virtio_user_polls_on_the_load_core(tmp_path: Path) -> None:
    """Its prompt is on the core of the back-end, or it would wait for itself; it asks for sums."""
    load = VirtioUser(Peer("testpmd", tmp_path, 0), tmp_path, 1)
    argv = load.argv()
    assert "0@0,1@1" == after("--lcores", argv)
    assert {"--rx-offloads=0xc", "--tx-offloads=0xc"} <= {*argv}
    assert f"net_virtio_user0,path={tmp_path}/testpmd/a" in after("--vdev", argv)


def test_last_negotiation_counts() -> None:
    """A driver negotiates again when it starts its device; other sockets are not ours."""
    said = "VHOST_CONFIG: ({}) negotiated Virtio features: {}"
    lines = [said.format(*pair) for pair in (("/a", "0x1"), ("/c", "0x7"), ("/a", "0x150008003"))]
    assert [0x150008003, 0] == logged_features("\n".join(lines), ["/a", "/b"])
    assert SUMS == mask_of(["VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_GUEST_CSUM"])


def test_bounce_reads_testpmd() -> None:
    """Rates of both ports add up; the length is that of the frames between the two answers."""

    def answer(packets: int, octets: int, pps: int) -> str:
        values = {"packets": packets, "octets": octets, "pps": pps}
        return "".join(STATISTICS.format(port=port, **values) for port in (0, 1))

    found = bounce(answer(100, 6400, 0), answer(150, 6400 + 50 * 1500, 42))
    assert (84, 1500) == found
    assert (0, 0) == bounce("", "")


def test_ratio_is_taken_round_by_round() -> None:
    """A round in which everything was slow does not count against either."""
    rates = {"vionet-wire": [10.0, 1.0, 12.0], "testpmd": [5.0, 0.5, 4.0]}
    ours, theirs = figures_of(BOTH, rates, {})
    assert (2.0, "testpmd io", "forward-64-wire") == (ours.ratio, ours.against, ours.goal)
    assert (None, "") == (theirs.ratio, theirs.goal)
    assert 5.12 == ours.detail["gbit_s"]


@pytest.mark.parametrize(
    "case", [Case(64, "one"), Case(64, "both", foreign=True), Case(128, "both")]
)
def test_goals_are_about_both_ways_under_our_load(case: Case) -> None:
    """One way, DPDK's driver and other sizes are shown and not judged."""
    rates = {"vionet-switch": [1.0], "testpmd": [1.0], "ovs-normal": [1.0]}
    assert {""} == {figure.goal for figure in figures_of(case, rates, {})}


def test_less_than_another_is_a_fault() -> None:
    """vionet has to negotiate what a peer does under the same load, and sums in any case."""
    merge = 1 << net.VIRTIO_NET_F_MRG_RXBUF
    fair = {("vionet-wire", False): SUMS | merge, ("testpmd", False): merge}
    other_load = {("testpmd", True): SUMS | 1 << virtio.VIRTIO_F_VERSION_1}
    assert [] == feature_faults(fair | other_load)
    assert ["vionet wire: not negotiated: GUEST_CSUM MRG_RXBUF"] == feature_faults(
        fair | {("vionet-wire", False): 1 << net.VIRTIO_NET_F_CSUM}
    )
    assert ["negotiated by vionet wire; testpmd io: CSUM GUEST_CSUM"] == feature_notes(
        {("vionet-wire", False): SUMS, ("testpmd", False): SUMS}
    )


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program, a driver, huge pages: what, and how to have it."""
    with pytest.raises(dpdk.MissingError, match=r"^nothing-here is not .*\(Debian: a-package\)$"):
        dpdk.need_program("nothing-here", "a-package")
    monkeypatch.setattr(dpdk, "LIBRARY_FOLDERS", (str(tmp_path),))
    with pytest.raises(dpdk.MissingError, match="Debian: librte-net-vhost23"):
        dpdk.need_driver("vhost")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(dpdk, "FREE", tmp_path / "none")
    before = dpdk.POOL.read_text()
    hint = f"run `sysctl vm.nr_hugepages={int(before) + 2}` as root"
    with pytest.raises(dpdk.MissingError, match=hint), dpdk.huge_pages(3):
        pytest.fail("there are no pages")
    assert before == dpdk.POOL.read_text()


@pytest.mark.parametrize("text", ["both,up", "", "both,"])
def test_unknown_words_are_refused(text: str) -> None:
    """With the words that there are."""
    with pytest.raises(click.BadParameter, match="not one of both, one"):
        chosen("--ways", text, ("both", "one"))
    with pytest.raises(click.BadParameter, match="'x' is not a number"):
        chosen("--sizes", "64,x")
