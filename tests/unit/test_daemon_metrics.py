"""Metrics: what is read off the status document, and what the rules and the board ask for."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as families

from tests.tools import ROOT
from tests.unit.still_fabric import Plugs, StillPort
from vionet.config import parse_switch
from vionet.daemon.metrics import LEDGER, METRICS, WATCHED, Moment, exposition
from vionet.daemon.status import status_document
from vionet.engine.status import DROP_REASONS, LEDGER_KEYS
from vionet.spec.counter import counters

RULES = ROOT / "contrib" / "prometheus" / "vionet.rules.yml"
BOARD = ROOT / "contrib" / "grafana" / "vionet.json"


def document() -> Any:
    """A switch with two ports, one pair that talks, and a capture."""
    plugs = Plugs({"a": StillPort(), "t": StillPort()})
    config = parse_switch("lan", ["a=guest:/a,mac=52:54:00:00:00:01", "t=tap:t0"])
    status = status_document([(config, plugs)])
    (fabric,) = status["fabrics"]
    fabric["captures"] = [{"number": 2, "ports": ["a"], "records": 8, "lost": 5}]
    a, t = fabric["ports"]
    a |= {"state": "attached", "link": "up", "worker": 1}
    a |= {"offered": ["VIRTIO_NET_F_CSUM", "VIRTIO_NET_F_MTU"], "features": ["VIRTIO_NET_F_CSUM"]}
    t |= {"state": "attached", "link": "down", "features": []}
    a["ledger"] = {key: 100 + number for number, key in enumerate(LEDGER_KEYS)}
    a["drops"] = {"vlan_filtered": 3, "ring_broken": 1}
    return status


def page(status: Any, accept: str = "") -> str:
    """The whole text."""
    return b"".join(exposition(Moment(status, {200: 4}), accept)[1]).decode()


Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def values(found: Iterable[Metric]) -> Values:
    """What the library's own reader finds in a page: by name and labels."""
    read = [sample for family in found for sample in family.samples]
    return {(one.name, frozenset(one.labels.items())): one.value for one in read}


def test_page_says_what_the_status_says() -> None:
    """Every counter of every port, drops that happened and those that are watched, workers' time
    in seconds, pairs, captures; the same numbers in both formats."""
    status = document()
    found = values(families(page(status)))

    def value(name: str, **labels: str) -> float | None:
        return found.get((name, frozenset({"fabric": "lan", **labels}.items())))

    for number, (key, name) in enumerate(LEDGER.items()):
        assert 100 + number == value(f"vionet_port_{name}_total", port="a"), key
    drops = "vionet_port_drops_total"
    assert [3, 1, 0, None] == [
        value(drops, port="a", reason=reason)
        for reason in ("vlan_filtered", "ring_broken", "fdb_full", "isolated")
    ]
    assert {*WATCHED, "vlan_filtered"} == {
        dict(labels)["reason"]
        for name, labels in found
        if name == drops and ("port", "a") in labels
    }
    seconds = "vionet_worker_cpu_seconds_total"
    assert [0.005, 7e-9] == [value(seconds, worker=number) for number in "01"]
    assert 3 == value("vionet_talk_frames_total", **{"from": "a", "to": "t"})
    assert 200 == value("vionet_talk_bytes_total", **{"from": "a", "to": "t"})
    assert 8 == value("vionet_capture_records_total", capture="2")
    assert 5 == value("vionet_capture_lost_records_total", capture="2")
    assert [1, 0] == [value("vionet_port_up", port=port) for port in "at"]
    assert [1, 0] == [
        value("vionet_port_feature_negotiated", port="a", feature=f"VIRTIO_NET_F_{name}")
        for name in ("CSUM", "MTU")
    ]
    about = {"kind": "guest", "mac": "52:54:00:00:00:01", "policy": "uniform", "offload": "full"}
    assert 1 == value("vionet_port_info", port="a", netdev="", **about)
    assert 4 == found["vionet_scrapes_total", frozenset({("code", "200")})]
    text = page(status, "text/plain;q=0.5, application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    ours = {key: one for key, one in found.items() if key[0].startswith("vionet_")}
    opened = values(open_families(text))
    assert ours == {key: one for key, one in opened.items() if key[0].startswith("vionet_")}


def test_names_keep_the_conventions() -> None:
    """Base units, `_total` for what only grows and nothing else, and all that there is to say of
    the ledger."""
    assert set(LEDGER_KEYS) == set(LEDGER)
    status = document()
    kinds = {family.name: family.type for family in families(page(status))}
    for name, entry in METRICS.items():
        assert re.fullmatch(r"vionet_[a-z_]+", name)
        assert entry.words
        assert not re.search(r"_(ns|ms|kib|percent|count)(_|$)", name)
        wanted = "counter" if name.endswith("_total") else "gauge"
        assert wanted == kinds[name.removesuffix("_total")], name
    assert {"process_cpu_seconds", "process_start_time_seconds"} <= kinds.keys()


def test_labels_are_escaped() -> None:
    """A name with quotes, a backslash and a line break is one label's value again when read."""
    status = document()
    bad = 'a"} 1\n\\# HELP x{'
    status["fabrics"][0]["ports"][0]["name"] = bad
    labels = [dict(labels) for _, labels in values(families(page(status)))]
    assert {bad, "t"} == {one["port"] for one in labels if "port" in one}


def alerts() -> dict[str, set[str]]:
    """The drop reasons that each alert rule names."""
    found: dict[str, set[str]] = {}
    for part in RULES.read_text().split("- alert: ")[1:]:
        name, _, rest = part.partition("\n")
        words = re.findall(r'reason=~?"([^"]+)"', rest)
        found[name] = {reason for text in words for reason in text.split("|")}
    return found


def test_alerts_name_what_matters() -> None:
    """Each drop reason that is a fault has exactly one alert rule, and one that comes with healthy
    networks has none; what is to be seen from the first frame on is there from the start."""
    named = [reason for reasons in alerts().values() for reason in reasons]
    assert len(named) == len(set(named))
    kinds = {name: one.kind for name, one in counters().items() if one.is_drop}
    assert set(kinds) == set(DROP_REASONS[1:])
    faults = {name for name, kind in kinds.items() if kind in ("slow", "network", "guest", "host")}
    assert faults <= set(named)
    assert {"choice"} == {kinds[name] for name in set(named) - faults}
    lasting = {"VionetDriverBreaksRules"}  # which go on, if they matter
    first = {one for name, found in alerts().items() if name not in lasting for one in found}
    assert first == set(WATCHED)
    assert len(WATCHED) == len(first)


def queries() -> list[str]:
    """The expressions of the board."""
    board = json.loads(BOARD.read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def test_board_and_rules_ask_for_what_there_is() -> None:
    """Every name in an expression is a metric's, with labels that it has."""
    names = {*METRICS, "up"}
    text = "\n".join([*queries(), *re.findall(r"expr:((?:.|\n {10})*)", RULES.read_text())])
    used = re.findall(r"\b((?:vionet|process)_\w+|up)\b(?:\{([^}]*)\})?", text)
    assert len(used) > 40
    for name, selectors in used:
        assert name in names
        labels = set(re.findall(r"(\w+)\s*=", selectors)) - {"instance", "job"}
        assert name == "up" or labels <= set(METRICS[name].labels), (name, selectors)


def test_board_is_whole() -> None:
    """Panels have ids of their own, a place of their own in 24 columns, and the datasource that is
    chosen on the board."""
    board = json.loads(BOARD.read_text())
    assert {"datasource", "instance", "fabric", "port"} == {
        one["name"] for one in board["templating"]["list"]
    }
    panels = board["panels"]
    assert len(panels) == len({panel["id"] for panel in panels})
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or "${datasource}" == panel["datasource"]["uid"]
        for target in panel.get("targets", ()):
            assert "${datasource}" == target["datasource"]["uid"]


def test_nothing_is_loaded_for_those_who_do_not_ask() -> None:
    """The library for the format is read with `--metrics` only."""
    code = (
        "import sys, vionet.cli.fabric, vionet.cli.up, vionet.daemon.run, vionet.daemon.up\n"
        "sys.exit('prometheus_client' in sys.modules)"
    )
    assert 0 == subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode
