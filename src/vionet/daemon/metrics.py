"""The status document as Prometheus reads it.

How it works: `METRICS` says what there is to know, and `exposition` makes text of one status
document, in the format that whoever asks prefers.  Nothing is counted here: every number is read
from the document, which reads the workers' counters where they lie and stops nobody.

Invariants: a metric, once there, keeps its name, its labels and its unit (docs/metrics.md).  Words
for directions are the guest's: it transmits and receives.  A drop reason is there once it happened;
those of `WATCHED`, for which there are alert rules, always are, so that a rate sees the first one.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from vionet import __version__
from vionet.spec.counter import counters, plain

LEDGER: Final = {  # key -> its metric, without `vionet_port_` and `_total`
    "tx_frames": "transmit_frames",
    "tx_bytes": "transmit_bytes",
    "rx_frames": "receive_frames",
    "rx_bytes": "receive_bytes",
    "csum_elided": "checksums_elided",
    "csum_filled": "checksums_filled",
    "csum_unfilled": "checksums_unfilled",
    "csum_verified": "checksums_verified",
    "csum_bad": "checksums_bad",
    "pseudo_header_repaired": "pseudo_headers_repaired",
    "gso_passed": "large_frames_passed",
    "gso_segmented": "large_frames_segmented",
    "segments": "segments",
    "header_bytes": "header_copied_bytes",
    "payload_bytes_copied": "payload_copied_bytes",
    "payload_bytes_summed": "payload_summed_bytes",
    "kicks": "kicks",
    "calls": "calls",
    "calls_suppressed": "calls_suppressed",
    "wakeups": "wakeups",
}
TALKS: Final = {  # likewise, without `vionet_talk_`
    "frames": ("frames", "Frames delivered from one port to another"),
    "bytes": ("bytes", "Their bytes"),
    "elided": ("checksums_elided", "Of those, delivered partial"),
    "computed": ("checksums_computed", "Of those, checksums that vionet computed"),
}
WATCHED: Final = (  # contrib/prometheus/vionet.rules.yml
    "csum_not_negotiated",
    "fdb_full",
    "gso_not_negotiated",
    "interface_error",
    "mtu_exceeded",
    "neighbour_locked",
    "ring_broken",
    "rx_buffer_too_small",
    "rx_ring_full",
    "source_ip_locked",
    "source_mac_locked",
    "tap_error",
)


class Entry(NamedTuple):
    """What is known of a metric besides its name."""

    words: str
    labels: tuple[str, ...]


_FABRIC: Final = ("fabric",)
_PORT: Final = ("fabric", "port")
_TALK: Final = ("fabric", "from", "to")
_ABOUT: Final = ("kind", "mac", "netdev", "offload", "policy")  # as the status document has them
# What ends in `_total` is a counter, all else a gauge.
METRICS: Final = {
    "vionet_build_info": Entry("1; the label says which version runs", ("version",)),
    "vionet_scrapes_total": Entry("Requests for this page, by HTTP status", ("code",)),
    "vionet_fabric_info": Entry("1; a switch or a wire", (*_FABRIC, "kind")),
    "vionet_worker_cpu_seconds_total": Entry("Processor time of a worker", (*_FABRIC, "worker")),
    "vionet_captures": Entry("Captures that run", _FABRIC),
    "vionet_capture_lost_records_total": Entry(
        "Records that found no room, of a capture that runs", (*_FABRIC, "capture")
    ),
    "vionet_port_info": Entry("1; labels say what the port is", (*_PORT, *_ABOUT)),
    "vionet_port_up": Entry("1: somebody is attached, and the link is up", _PORT),
    "vionet_port_worker_info": Entry("1; which worker takes its frames", (*_PORT, "worker")),
    "vionet_port_feature_negotiated": Entry(
        "1: negotiated; 0: offered and refused; nothing while nobody is attached",
        (*_PORT, "feature"),
    ),
    **{
        f"vionet_port_{name}_total": Entry(f"{key}: {plain(counters()[key].what)}", _PORT)
        for key, name in LEDGER.items()
    },
    "vionet_port_drops_total": Entry("Frames that went nowhere", (*_PORT, "reason")),
    **{f"vionet_talk_{name}_total": Entry(words, _TALK) for name, words in TALKS.values()},
}


def exposition(status: Any, scrapes: Mapping[int, int], accept: str) -> tuple[str, bytes]:
    """The content type and the text of a status document; `scrapes` counts answers by their
    status, and `accept` is the header of whoever asks."""
    page = _Page(status, scrapes)
    if "application/openmetrics-text" in accept:
        latest: Callable[[Collector], bytes] = openmetrics.generate_latest
        return openmetrics.CONTENT_TYPE_LATEST, latest(page)
    return CONTENT_TYPE_PLAIN_0_0_4, generate_latest(page)


class _Page(Collector):
    """All metrics at one moment."""

    def __init__(self, status: Any, scrapes: Mapping[int, int]) -> None:
        self._found = {name: _family(name, entry) for name, entry in METRICS.items()}
        self._add("vionet_build_info", __version__, value=1)
        for code, count in scrapes.items():
            self._add("vionet_scrapes_total", str(int(code)), value=count)
        for fabric in status["fabrics"]:
            self._fabric(fabric, fabric["name"])

    def collect(self) -> Iterator[Metric]:
        """Those that have values."""
        yield from (family for family in self._found.values() if family.samples)
        yield from ProcessCollector(registry=None).collect()

    def _add(self, name: str, *labels: str, value: float) -> None:
        self._found[name].add_metric(labels, value)

    def _fabric(self, fabric: Any, name: str) -> None:
        self._add("vionet_fabric_info", name, fabric["kind"], value=1)
        self._add("vionet_captures", name, value=len(fabric["captures"]))
        for worker in fabric["workers"]:
            labels = name, str(worker["number"])
            self._add("vionet_worker_cpu_seconds_total", *labels, value=worker["cpu_ns"] / 1e9)
        for one in fabric["captures"]:
            labels = name, str(one["number"])
            self._add("vionet_capture_lost_records_total", *labels, value=one["lost"])
        for port in fabric["ports"]:
            self._port(port, (name, port["name"]))
        for talk in fabric["talks"]:
            for key, (metric, _) in TALKS.items():
                labels3 = name, talk["from"], talk["to"]
                self._add(f"vionet_talk_{metric}_total", *labels3, value=talk[key])

    def _port(self, port: Any, labels: tuple[str, str]) -> None:
        add = partial(self._add)
        add("vionet_port_info", *labels, *(str(port[key] or "") for key in _ABOUT), value=1)
        up = port["state"] == "attached" and port["link"] == "up"
        add("vionet_port_up", *labels, value=int(up))
        add("vionet_port_worker_info", *labels, str(port["worker"]), value=1)
        negotiated = set(port["features"])
        for feature in port["offered"] if negotiated else ():
            value = int(feature in negotiated)
            add("vionet_port_feature_negotiated", *labels, feature, value=value)
        for key, metric in LEDGER.items():
            add(f"vionet_port_{metric}_total", *labels, value=port["ledger"][key])
        for reason, count in {**dict.fromkeys(WATCHED, 0), **port["drops"]}.items():
            add("vionet_port_drops_total", *labels, reason, value=count)


def _family(name: str, entry: Entry) -> CounterMetricFamily | GaugeMetricFamily:
    bare = name.removesuffix("_total")
    unit = bare.rpartition("_")[2]
    kind = GaugeMetricFamily if bare == name else CounterMetricFamily
    return kind(bare, entry.words, labels=entry.labels, unit=unit * (unit in ("bytes", "seconds")))
