"""Open vSwitch with DPDK as a back-end to measure: an instance of our own, beside any other.

How it works: a database server, then the switch, both in the foreground, with their sockets,
logs and files in our folder and the switch in a network namespace of its own, because it makes
interfaces in whichever it runs.  One PMD thread forwards on the measured core, every other thread
is on another.  Two ports of the type that listens (`dpdkvhostuser`), and the flows that the kind
names.  Its port names are its sockets' names.
"""

import os
import subprocess
from pathlib import Path
from typing import Final

from vionet.bench import dpdk
from vionet.bench.peer import Peer

SWITCH: Final = Path("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk")
SCHEMA: Final = Path("/usr/share/openvswitch/vswitch.ovsschema")
FLOWS: Final = {
    "ovs-normal": ("actions=NORMAL",),
    "ovs-flows": ("in_port=1,actions=output:2", "in_port=2,actions=output:1"),
}
COMMAND_TIMEOUT: Final = 20.0  # seconds
BRIDGE: Final = "bridge"


class OpenVSwitch(Peer):
    """One Open vSwitch; `kind` is one of FLOWS."""

    memory_mb = 64  # what its pool of 16384 frames needs

    def need(self) -> None:
        """Raise `MissingError` where it cannot run."""
        if not SWITCH.exists():
            raise dpdk.MissingError(f"{SWITCH} is not there (Debian: openvswitch-switch-dpdk)")
        for program in ("ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl"):
            dpdk.need_program(program, "openvswitch-switch-dpdk")
        dpdk.need_driver("vhost")
        if os.geteuid() != 0:
            raise dpdk.MissingError("Open vSwitch needs root for a network namespace of its own")

    def _launch(self) -> None:
        database, server = self.folder / "conf.db", f"unix:{self.folder}/db"
        self._call("ovsdb-tool", "create", str(database), str(SCHEMA))
        listen = [f"--remote=p{server}", f"--unixctl={self.folder}/db.control"]
        self._spawn(["ovsdb-server", str(database), *listen])
        self.wait((self.folder / "db").is_socket)
        ask = ("ovs-vsctl", f"--db={server}", "--timeout=15")
        settings = [f"other_config:{key}={value}" for key, value in self.settings().items()]
        self._call(*ask, "--no-wait", "init", "--", "set", "Open_vSwitch", ".", *settings)
        place = ["unshare", "--net", "taskset", "-c", str(self.other)]
        control = f"--unixctl={self.folder}/control"
        self.process = self._spawn([*place, str(SWITCH), server, control])
        words = ["add-br", BRIDGE, "--", "set", "bridge", BRIDGE]
        words += ["datapath_type=netdev", "fail-mode=secure"]
        for number, path in enumerate(self.paths, 1):
            name = Path(path).name
            words += ["--", "add-port", BRIDGE, name, "--", "set", "interface", name]
            words += ["type=dpdkvhostuser", f"ofport_request={number}"]
        self._call(*ask, *words)
        for flow in FLOWS[self.kind]:
            self._call("ovs-ofctl", "add-flow", f"unix:{self.folder}/{BRIDGE}.mgmt", flow)

    def settings(self) -> dict[str, str]:
        """Its configuration as far as DPDK is concerned."""
        return {
            "dpdk-init": "true",
            "dpdk-lcore-mask": hex(1 << self.other),
            "pmd-cpu-mask": hex(1 << self.core),
            "dpdk-socket-mem": str(self.memory_mb),
            "dpdk-socket-limit": str(self.memory_mb),
            "dpdk-extra": " ".join(dpdk.eal_arguments(self.prefix, "vhost")),
        }

    def environment(self) -> dict[str, str]:
        """Everything in our folder."""
        folders = dict.fromkeys(("RUNDIR", "LOGDIR", "DBDIR", "SYSCONFDIR"), str(self.folder))
        return super().environment() | {f"OVS_{name}": path for name, path in folders.items()}

    def _call(self, *argv: str) -> None:
        """Run one of its tools; RuntimeError with what it said."""
        done = subprocess.run(
            argv,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | self.environment(),
            timeout=COMMAND_TIMEOUT,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{argv[0]}: {done.stderr.strip() or done.returncode}")
