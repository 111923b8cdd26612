"""What is true of a site, step by step: each step asserts it of real machines and their host."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

from tests.interop.peers.process import until
from tests.interop.peers.shell import EndpointJob
from tests.interop.peers.traffic import (
    Transfer,
    converse,
    lasting,
    lasting_to,
    no_bad_checksums,
)
from tests.interop.peers.uml import Uml
from tests.interop.site_cast import FORWARD, Cast
from tests.interop.site_file import NAMES, mac
from tests.interop.site_lab import Machine, held_namespaces, taps
from tests.interop.vm_lab import BUTTON
from vionet.spec import virtio

CHECKSUMS = {"VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_GUEST_CSUM"}
TSO = {f"VIRTIO_NET_F_{end}_TSO{family}" for end in ("HOST", "GUEST") for family in "46"}
NO_DAD = "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad ;"
LATE_PORTS = ["late.0", "late.0-dhcp", "late.0-host", "late.1"]
REACHED = "&& echo reached || echo not"
RATE = 400_000  # bytes a second of a transfer that has to last


class Story(Cast):
    """One site from its file to its end."""

    homely = "plain"  # whose transfer to the host lasts
    outside = ""  # what `plain` reaches by passt
    n_taps = len(NAMES)

    def negotiated(self) -> None:
        """Checksums and segmentation with those that have them, on both sides, in both opinions;
        with `plain` nothing."""
        for name in NAMES:
            for number in (0, 1):
                port = self.site.port(f"{name}.{number}")
                self.guests[name].interface = f"eth{number}"
                kernel = {virtio.NAMES[bit] for bit in self.guests[name].features()}
                wanted = set() if name == "plain" else CHECKSUMS | TSO
                assert "attached" == port["state"]
                assert wanted == set(port["features"]) & (CHECKSUMS | TSO)
                assert wanted == kernel & (CHECKSUMS | TSO)
                assert port["locked"]
        uml = self.site.port("uml")
        assert ("attached", mac("uml")) == (uml["state"], uml["mac"])
        assert set(uml["features"]) >= CHECKSUMS | TSO

    def talk_to_host(self, *names: str, size: int = 400_000) -> None:
        """Bulk TCP and datagrams between machines and their host, both ways, both families; in the
        ledger no payload was copied at the tap, and sums were finished for `plain` only."""
        for name in names:
            home = self.at_home(name)
            converse(home.guest, home.gateway, size=size, largest=64)
            ledgers = self.site.ledgers()
            assert 0 == ledgers[f"{name}.0-host"]["payload_bytes_copied"]
            assert (name == "plain") == (ledgers[f"{name}.0"]["csum_filled"] > 100), ledgers
            elided = min(ledgers[port]["csum_elided"] for port in (f"{name}.0", f"{name}.0-host"))
            assert (name == "plain") == (elided < 100), ledgers

    def talk_by_passt(self, name: str, *addresses: str, size: int = 400_000) -> None:
        """Bulk TCP from a machine to servers of the host at these addresses, by way of passt."""
        for address in addresses:
            guest, serving = self.served_by_passt(name, address)
            sending = guest.start_endpoint(f"tcp-send {address} 5303 bytes={size} timeout=90")
            Transfer(size, serving, sending, repeated=True).check()
        no_bad_checksums(self.guests[name], self.place)

    def served_by_passt(self, name: str, address: str) -> tuple[Machine, EndpointJob]:
        """A machine, and a server that it reaches by passt."""
        serving = self.place.start_endpoint(f"tcp-serve {address} 5303 timeout=90")
        # This passt's refusals look like silence to a guest.
        self.place.run("until ss -Hltn | grep -q :5303 ; do sleep 0.05 ; done")
        return self.at_home(name).guest, serving

    def talk_on_switch(self, *pairs: tuple[str, str], size: int = 400_000) -> None:
        """Bulk TCP and datagrams between machines on the switch."""
        for one, other in pairs:
            before = self.site.ledgers()
            converse(self.on_switch(one), self.on_switch(other), size=size, largest=64)
            after = self.site.ledgers()
            for name in (one, other):
                port = name if name == "uml" else f"{name}.1"
                filled, elided = (
                    after[port][key] - before[port][key] for key in ("csum_filled", "csum_elided")
                )
                if name == "plain":
                    assert filled > 100 > elided
                elif "plain" not in (one, other):
                    assert elided > 100 > filled

    def drops(self, port: str, reason: str) -> int:
        """How many frames from or to this port were refused for this reason."""
        return int(self.site.port(port)["drops"].get(reason, 0))

    def kept_apart(self) -> None:
        """Local interfaces do not reach each other, though the host would forward it; a machine
        reaches nobody by another address than its own, and each try is counted."""
        full, isc = self.guests["full"], self.guests["isc"]
        assert ["1", "1"] == self.host.run(f"sysctl -n {' '.join(FORWARD)}").split()
        there, there6 = self.address("isc"), self.address6("isc")
        tcp = f"nc -w 1 {there} 5201 </dev/null"
        refused = [f"ping -c 1 -W 1 {there}", f"ping -6 -c 1 -W 1 {there6}", tcp]
        self.refused(full, "full.0", "kept_off", *refused)
        full.run(f"{NO_DAD} ip -6 addr add fd00:bad::7/128 dev eth0")
        full.run("ip addr add 100.64.77.7/32 dev eth0")
        ping = f"ping -c 1 -W 1 -I 100.64.77.7 {self.gateway('full')}"
        ping6 = "ping -6 -c 1 -W 1 -I fd00:bad::7 fd00:64::1"
        self.refused(full, "full.0", "source_ip_locked", ping, ping6)
        self.uml.run("ip addr add 192.0.2.77/24 dev eth0")
        ping = "busybox ping -c 1 -W 1 -I 192.0.2.77 192.0.2.3"
        self.refused(self.uml, "uml", "neighbour_locked", ping)
        isc.run("ip link set eth1 address 52:54:00:00:00:99")
        self.refused(isc, "isc.1", "source_mac_locked", "ping -c 1 -W 1 192.0.2.1")
        isc.run(f"ip link set eth1 address {mac('isc')}")
        assert "reached" in isc.run(f"ping -c 1 -W 5 192.0.2.1 {REACHED}").split()

    def refused(self, guest: Machine | Uml, port: str, reason: str, *commands: str) -> None:
        """Each of these, run at the same time, fails, and frames were dropped for that reason."""
        before = self.drops(port, reason)
        line = "".join(f'({command} {REACHED}) & all="$all $!" ; ' for command in commands)
        said = guest.run(f"all= ; {line} wait $all").split()
        assert (0, len(commands)) == (said.count("reached"), said.count("not"))
        assert before + len(commands) <= self.drops(port, reason)

    def lets_near(self) -> None:
        """What was kept off reaches the other by way of the host, once the file says that it may;
        no machine is touched."""
        before = self.site.pids()
        self.write(*NAMES, isolated=False)
        assert not {"new", "restarted", "stopped", "ports_gone"} & self.site.reload().keys()
        self.find_host()
        assert before == self.site.pids()
        ping = f"ping -c 1 -W 5 {self.address('isc')}"
        assert "reached" in self.guests["full"].run(f"{ping} {REACHED}").split()
        ping = f"ping -6 -c 1 -W 5 {self.address6('isc')}"
        assert "reached" in self.guests["full"].run(f"{ping} {REACHED}").split()

    def long_transfers(self) -> list[Transfer]:
        """One on the switch, one to the host, which last; both under way."""
        one, other = self.on_switch("full"), self.on_switch("isc")
        found = [lasting(one, other, other.address4, RATE, port=5301)]
        home = self.at_home(self.homely)
        found.append(lasting(home.guest, home.gateway, home.gateway.address6, RATE, port=5302))
        self.go_on()
        return found

    def go_on(self) -> None:
        """Wait until both of these transfers have moved a second's worth more."""
        ports, before = ("isc.1", f"{self.homely}.0-host"), self.site.ledgers()

        def moved() -> bool:
            now = self.site.ledgers()
            return all(now[port]["rx_bytes"] - before[port]["rx_bytes"] > RATE for port in ports)

        until(moved, 90, "transfers under way", 0.05)

    def restarts(self, with_signal: signal.Signals) -> None:
        """vionet ends by this signal and is started again in the middle of transfers, which go on;
        machines and taps are the same.  User Mode Linux never comes back to a device whose socket
        closed: there a new guest takes the port."""
        before, links = self.site.pids(), taps(self.host)
        assert set(NAMES) == before.keys()
        assert self.n_taps == len(links)
        transfers = self.long_transfers()
        if self.outside:
            guest, serving = self.served_by_passt("plain", self.outside)
            transfers.append(
                lasting_to(serving, guest, self.outside, RATE, port=5303, repeated=True)
            )
        uptimes = {name: self.guests[name].uptime() for name in NAMES}
        self.site.restart(with_signal)
        self.add_foreign()
        assert (before, links) == (self.site.pids(), taps(self.host))
        for name in NAMES:
            self.guests[name].attach_again()
        self.go_on()
        for one in transfers:
            one.check()
        for name in NAMES:
            assert uptimes[name] < self.guests[name].uptime()
        assert "waiting" == self.site.port("uml")["state"]
        no_bad_checksums(*self.guests.values(), self.host)
        self.uml.kill()
        self.boot("uml")

    def grows(self, reload: Callable[[], None]) -> None:
        """A reload brings a machine, with all that belongs to it, and the others do not notice."""
        before, links, ledgers = self.site.pids(), taps(self.host), self.site.ledgers()
        transfers = self.long_transfers()
        self.write(*NAMES, "late")
        reload()
        self.boot("late")
        self.ask_addresses("late")
        after = self.site.pids()
        assert before.keys() | {"late"} == after.keys()
        assert before == {name: after[name] for name in before}
        assert links == {name: index for name, index in taps(self.host).items() if name in links}
        assert len(links) + 1 == len(taps(self.host))
        now = self.site.ledgers()
        kept = ledgers.keys() - {"uml"}
        assert all(ledgers[port]["tx_frames"] <= now[port]["tx_frames"] for port in kept)
        self.go_on()
        for one in transfers:
            one.check()

    def by_signal(self) -> None:
        """SIGHUP, and wait until it has been followed."""
        since = len(self.site.log.read_text())
        self.site.child.process.send_signal(signal.SIGHUP)
        self.site.await_log("] reloaded", since)

    def by_command(self) -> None:
        """`vionet reload`; a port that was added by hand goes, because the file has it not."""
        expected = {"new": ["late"], "ports_new": LATE_PORTS, "ports_gone": ["uml"]}
        assert expected == self.site.reload()

    def refuses(self, mistakes: str, *told: str) -> None:
        """A file with mistakes is refused with all of them, and everything is as it was."""
        before = taps(self.host), self.site.machines()
        path = self.folder / self.file
        good = path.read_text()
        path.write_text(good + mistakes)
        done = self.site.call("reload")
        assert 1 == done.returncode
        for line in (*told, "nothing changed"):
            assert line in done.stderr
        assert before == (taps(self.host), self.site.machines())
        path.write_text(good)

    def shrinks(self) -> None:
        """A reload takes `late` away, with its tap and its sockets."""
        before, links = self.site.pids(), taps(self.host)
        pid = before.pop("late")
        self.listen("late")
        self.write(*NAMES)
        assert {"stopped": ["late"], "ports_gone": LATE_PORTS} == self.site.reload()
        assert not Path(f"/proc/{pid}").exists()
        assert before == self.site.pids()
        assert len(links) - 1 == len(taps(self.host))
        assert taps(self.host).items() < links.items()
        assert [] == [*(self.site.runtime / "vionet" / self.site.name).glob("late*")]
        self.guests.pop("late").kill()

    def listen(self, name: str) -> None:
        """Have a machine power off when its button is pressed."""
        self.guests[name].start(BUTTON)
        reader = "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/input/"
        self.guests[name].run(f"until {reader} ; do usleep 20000 ; done")

    def ends(self, *proper: str) -> None:
        """SIGTERM ends everything: machines that listen to their button power off, others are
        stopped by force; no process, socket, tap, or runtime folder is left."""
        no_bad_checksums(*self.guests.values(), self.uml, self.host)
        for name in proper:
            self.listen(name)
        pids, namespaces = self.site.pids(), self.site.namespaces()
        names = " ".join(self.site.processes().values())
        assert names.count("qemu-system") == len(pids)
        assert "keeper" in names, names
        since = len(self.site.log.read_text())
        self.uml.kill()
        assert 0 == self.site.stop(), self.site.child.tail()
        for guest in self.guests.values():
            guest.kill()
        log = self.site.log.read_text()[since:]
        for name in pids:
            reason = "power-off" if name in proper else "stopped by force"
            assert re.search(rf"machine stopped +vm={name} reason='?{reason}'?", log), log
        until(lambda: not self.site.processes(), 60, "end of all processes", 0.02)
        assert {} == taps(self.place)
        assert not namespaces & held_namespaces()
        assert str(self.folder) not in self.place.run("cat /proc/net/unix")
        assert [] == [*(self.site.runtime / "vionet").rglob("*")]
        assert {"numbers.json"} < {path.name for path in self.site.state.iterdir()}
