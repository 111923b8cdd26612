"""Metrics as Prometheus and its promtool have them, and curl on a Unix socket."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.process import Child, Children
from tests.serving import READY_S, starter
from tests.tools import ROOT, need
from tests.unit.test_daemon_metrics import queries
from vionet.check.driver import Port
from vionet.check.packet import BROADCAST, Flow
from vionet.daemon.control import ask_status
from vionet.daemon.metrics import LEDGER, METRICS
from vionet.spec import virtio
from vionet.spec import virtio_net as net

FOLDER = ROOT / "contrib" / "prometheus"
FEATURES = virtio.mask(
    (virtio.VIRTIO_F_VERSION_1, net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_GUEST_CSUM)
)
MACS = [bytes.fromhex(f"5254000000{octet:02x}") for octet in (1, 2, 9)]
FRAMES = 20
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h"}
WAIT_S = 60


def run(tool: str, *arguments: str | Path, text: str = "") -> str:
    """What a program says; it has to end with status 0."""
    argv = [str(need(tool)), *map(str, arguments)]
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert 0 == done.returncode, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def asked() -> list[str]:
    """The expressions of the board, as Grafana sends them with all ports chosen."""
    found = queries()
    for name, value in VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    return [re.sub(r"\$(instance|fabric|port)\b", ".*", expression) for expression in found]


def test_promtool_accepts_rules_and_board(tmp_path: Path) -> None:
    """The rules and their tests, the example of a configuration, and what the board asks for."""
    run("promtool", "check", "rules", FOLDER / "vionet.rules.yml")
    assert "SUCCESS" in run("promtool", "test", "rules", FOLDER / "vionet.tests.yml")
    run("promtool", "check", "config", FOLDER / "prometheus.yml")
    rules = [{"record": f"r{number}", "expr": one} for number, one in enumerate(asked())]
    board = tmp_path / "board.yml"
    board.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run("promtool", "check", "rules", board)


class Api:
    """What a running Prometheus answers."""

    def __init__(self, child: Child) -> None:
        self._child = child
        at = child.wait_for(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', WAIT_S)[1]
        child.wait_for("Server is ready to receive web requests", WAIT_S)
        self._url = f"http://{at}/api/v1"

    def ask(self, path: str, **fields: str) -> Any:
        """The data of an answer."""
        with urlopen(f"{self._url}/{path}?{urlencode(fields)}", timeout=WAIT_S) as answer:
            document = json.load(answer)
        assert "success" == document["status"], document
        return document["data"]

    def values(self, expression: str) -> dict[str, float]:
        """The value for each port, or the only one."""
        found = self.ask("query", query=expression)["result"]
        return {one["metric"].get("port", ""): float(one["value"][1]) for one in found}

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait for what comes with one of the next scrapes."""
        deadline = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < deadline, f"no {what}: {self._child}"
            self._child.read(0.1)


def exchange(a: Port, b: Port) -> None:
    """Datagrams whose checksums are open, and one frame that may not pass; all are counted."""
    for number in range(FRAMES):
        header, frame = Flow(MACS[0], MACS[1]).udp(b"metrics %d." % number).partial()
        a.send(frame, header)
        b.collect(b"metrics %d." % number)
    a.send(Flow(MACS[2], BROADCAST).arp())
    a.sent()


def test_prometheus_reads_a_switch(start: Children, run_dir: Path) -> None:
    """With the example's configuration and rules: the target is up, every counter of every port is
    what `status` says, an alert fires for a frame that may not pass, no rule and no query of the
    board fails, and each asks for what is there."""
    need("prometheus")
    sockets = [run_dir / "a", run_dir / "b"]
    switch = starter(start)(
        "switch", "--name", "lan", f"a=guest:{sockets[0]},mac=52:54:00:00:00:01,locked",
        f"b=guest:{sockets[1]}", "--control", f"{run_dir}/c", "--metrics", "127.0.0.1:0",
    )  # fmt: skip
    url = switch.wait_for(r"metrics +address=(http://\S+)", READY_S)[1] + "/metrics"
    folder = run_dir / "prometheus"
    folder.mkdir()
    shutil.copy(FOLDER / "vionet.rules.yml", folder)
    text = (FOLDER / "prometheus.yml").read_text()
    assert 1 == text.count('["127.0.0.1:9464"]')
    text = text.replace("127.0.0.1:9464", url.split("/")[2]).replace("15s", "1s")
    (folder / "prometheus.yml").write_text(text)
    prometheus = start(
        need("prometheus"), f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data", "--web.listen-address=127.0.0.1:0",
    )  # fmt: skip
    api = Api(prometheus)
    ports: list[Port] = []
    try:
        ports += [Port.open(path, FEATURES).start() for path in sockets]
        api.until(lambda: api.values('up{job="vionet"}') == {"": 1}, "target")
        seen = 'min_over_time(vionet_port_drops_total{reason="source_mac_locked"}[1h])'
        api.until(lambda: api.values(seen) == {"a": 0, "b": 0}, "drop that has not happened")
        capture = start(
            sys.executable, "-m", "vionet", "capture", "lan",
            "-w", f"{run_dir}/lan.pcapng", "--control", f"{run_dir}/c",
        )  # fmt: skip
        api.until(lambda: api.values("vionet_captures") == {"": 1}, "capture")
        exchange(*ports)
        said = {port["name"]: port for port in ask_status(run_dir / "c")["fabrics"][0]["ports"]}
        assert all(set(virtio.names(FEATURES)) <= set(port["features"]) for port in said.values())
        assert FRAMES + 1 == said["a"]["ledger"]["tx_frames"]
        assert FRAMES == said["b"]["ledger"]["csum_elided"]
        drops = 'vionet_port_drops_total{reason="source_mac_locked"}'
        api.until(lambda: api.values(drops) == {"a": 1, "b": 0}, "drop")
        api.until(lambda: ledgers(api) == status_ledgers(run_dir / "c"), "equal ledgers")
        assert {"": FRAMES} == api.values('vionet_talk_frames_total{from="a", to="b"}')
        assert {"": FRAMES + 1} == api.values("vionet_capture_records_total")
        pending = 'ALERTS{alertname="VionetLockedGuestTries", port="a"}'
        api.until(lambda: api.values(pending) == {"a": 1}, "alert")
        check_rules(api)
        text = run("curl", "--silent", "--show-error", url)
        assert "" == run("promtool", "check", "metrics", text=text)
    finally:
        for port in ports:
            port.close()
    assert 0 == capture.stop()
    assert 0 == prometheus.stop(30)
    assert 0 == switch.stop()


def ledgers(api: Api) -> dict[str, dict[str, float]]:
    """Every port's, as Prometheus last read them."""
    found: dict[str, dict[str, float]] = {"a": {}, "b": {}}
    for key, name in LEDGER.items():
        for port, value in api.values(f"vionet_port_{name}_total").items():
            found[port][key] = value
    return found


def status_ledgers(control: Path) -> dict[str, dict[str, float]]:
    """The same from the control socket."""
    return {port["name"]: port["ledger"] for port in ask_status(control)["fabrics"][0]["ports"]}


def check_rules(api: Api) -> None:
    """All rules are evaluated and none fails; queries find the metrics that they name."""

    def rules() -> list[Any]:
        (group,) = api.ask("rules")["groups"]
        return list(group["rules"])

    api.until(lambda: all(rule["health"] != "unknown" for rule in rules()), "evaluation")
    assert [] == [rule for rule in rules() if rule["health"] != "ok"]
    expressions = [*asked(), *(rule["query"] for rule in rules())]
    for expression in expressions:
        api.ask("query", query=expression)
    named = set(re.findall(r"\b(?:vionet|process)_\w+", " ".join(expressions)))
    there = set(api.ask("label/__name__/values"))
    assert named <= there
    assert METRICS.keys() == {name for name in there if name.startswith("vionet_")}


def test_curl_reads_a_unix_socket(start: Children, run_dir: Path) -> None:
    """Whoever may open the socket has the page; promtool accepts it."""
    switch = starter(start)(
        "wire", f"guest:{run_dir}/a", f"guest:{run_dir}/b", "--metrics", f"unix:{run_dir}/m"
    )
    page = ("--silent", "--show-error", "--fail", "--unix-socket", f"{run_dir}/m")
    text = run("curl", *page, "http://vionet/metrics")
    assert 'vionet_fabric_info{fabric="wire",kind="wire"} 1.0\n' in text
    assert "" == run("promtool", "check", "metrics", text=text)
    assert 0 == switch.stop()
