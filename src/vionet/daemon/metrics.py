"""The status document as Prometheus reads it.

How it works: `METRICS` says what there is to know, and how each metric is read off one status
document; `exposition` makes text of that, in the format that whoever asks prefers, a metric at a
time.  Nothing is counted here: the document reads the workers' counters where they lie and stops
nobody.

Invariants: a metric, once there, keeps its name, its labels and its unit (docs/metrics.md).  Words
for directions are the guest's: it transmits and receives.  A drop reason is there once it happened;
those of `WATCHED` always are, because an alert is raised for their first frame, and a rate has to
see it (contrib/prometheus/vionet.rules.yml).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from vionet import __version__
from vionet.engine.status import LEDGER_KEYS
from vionet.spec.counter import counters, plain

_SPELLED: Final = {"tx": "transmit", "rx": "receive", "csum": "checksums"}
# key of the ledger -> its metric without `vionet_port_` and `_total`; units come last
LEDGER: Final = {
    key: "_".join(sorted((_SPELLED.get(w, w) for w in key.split("_")), key="bytes".__eq__))
    for key in LEDGER_KEYS
}
WATCHED: Final = (
    *(name for name, one in counters().items() if one.kind in ("slow", "network", "host")),
    *("csum_not_negotiated", "gso_not_negotiated", "ring_broken"),
    *("neighbour_locked", "service_forged", "source_ip_locked", "source_mac_locked"),
)
Rows = Iterable[tuple[tuple[str, ...], float]]  # values of labels, and the metric's own


class Moment(NamedTuple):
    """What is asked about."""

    status: Any  # the document
    scrapes: Mapping[int, int]  # answers by HTTP status


class Entry(NamedTuple):
    """What is known of a metric besides its name; what ends in `_total` is a counter."""

    words: str
    labels: tuple[str, ...]
    rows: Callable[[Moment], Rows]


def _fabric(words: str, labels: tuple[str, ...], read: Callable[[Any], Rows]) -> Entry:
    """A metric of a fabric, read off its part of the document."""

    def rows(moment: Moment) -> Rows:
        for fabric in moment.status["fabrics"]:
            for values, value in read(fabric):
                yield (fabric["name"], *values), value

    return Entry(words, ("fabric", *labels), rows)


def _port(words: str, labels: tuple[str, ...], read: Callable[[Any], Rows]) -> Entry:
    """The same of a port."""

    def rows(fabric: Any) -> Rows:
        for port in fabric["ports"]:
            for values, value in read(port):
                yield (port["name"], *values), value

    return _fabric(words, ("port", *labels), rows)


def _ledger(key: str, port: Any) -> Rows:
    return [((), port["ledger"][key])]


def _talks(key: str, fabric: Any) -> Rows:
    return [((talk["from"], talk["to"]), talk[key]) for talk in fabric["talks"]]


def _captures(key: str, fabric: Any) -> Rows:
    return [((str(capture["number"]),), capture[key]) for capture in fabric["captures"]]


def _drops(port: Any) -> Rows:
    found = {**dict.fromkeys(WATCHED, 0), **port["drops"]}
    return [((reason,), count) for reason, count in found.items()]


def _features(port: Any) -> Rows:
    negotiated = set(port["features"])
    return [((one,), one in negotiated) for one in port["offered"] if negotiated]


def _up(port: Any) -> bool:
    return bool(port["state"] == "attached" and port["link"] == "up")


_ABOUT: Final = ("kind", "mac", "netdev", "offload", "policy")  # as the status document has them
METRICS: Final = {
    "vionet_build_info": Entry(
        "1; the label says which version runs", ("version",), lambda _: [((__version__,), 1)]
    ),
    "vionet_scrapes_total": Entry(
        "answers to requests for this page, by HTTP status",
        ("code",),
        lambda moment: [((str(int(code)),), n) for code, n in moment.scrapes.items()],
    ),
    "vionet_fabric_info": _fabric(
        "1; a switch or a wire", ("kind",), lambda fabric: [((fabric["kind"],), 1)]
    ),
    "vionet_worker_cpu_seconds_total": _fabric(
        "processor time of a worker's thread",
        ("worker",),
        lambda fabric: [((str(one["number"]),), one["cpu_ns"] / 1e9) for one in fabric["workers"]],
    ),
    "vionet_captures": _fabric(
        "captures that run", (), lambda fabric: [((), len(fabric["captures"]))]
    ),
    "vionet_capture_records_total": _fabric(
        "records of a capture that runs", ("capture",), partial(_captures, "records")
    ),
    "vionet_capture_lost_records_total": _fabric(
        "those that found no room, because its reader is slow",
        ("capture",),
        partial(_captures, "lost"),
    ),
    "vionet_talk_frames_total": _fabric(
        "frames delivered from one port to another", ("from", "to"), partial(_talks, "frames")
    ),
    "vionet_talk_bytes_total": _fabric("their bytes", ("from", "to"), partial(_talks, "bytes")),
    "vionet_port_info": _port(
        "1; what the port is",
        _ABOUT,
        lambda port: [(tuple(str(port[key] or "") for key in _ABOUT), 1)],
    ),
    "vionet_port_up": _port(
        "1: somebody is attached, and the link is up", (), lambda port: [((), _up(port))]
    ),
    "vionet_port_worker_info": _port(
        "1; which worker takes its frames", ("worker",), lambda port: [((str(port["worker"]),), 1)]
    ),
    "vionet_port_feature_negotiated": _port(
        "1: negotiated; 0: offered and refused; nothing while nobody is attached",
        ("feature",),
        _features,
    ),
    "vionet_port_drops_total": _port("frames that went nowhere", ("reason",), _drops),
    **{
        f"vionet_port_{name}_total": _port(plain(counters()[key].what), (), partial(_ledger, key))
        for key, name in LEDGER.items()
    },
}


def exposition(moment: Moment, accept: str) -> tuple[str, Iterator[bytes]]:
    """The content type, and the text a metric at a time; `accept` is the header of whoever asks."""
    if "application/openmetrics-text" in accept:
        return openmetrics.CONTENT_TYPE_LATEST, _text(
            moment, openmetrics.generate_latest, b"# EOF\n"
        )
    return CONTENT_TYPE_PLAIN_0_0_4, _text(moment, generate_latest, b"")


def _text(moment: Moment, text: Callable[[Collector], bytes], end: bytes) -> Iterator[bytes]:
    for name, entry in METRICS.items():
        yield text(_One(name, entry, moment)).removesuffix(end)
    yield text(ProcessCollector(registry=None)).removesuffix(end) + end


class _One(Collector):
    """One metric, as the library wants it."""

    def __init__(self, name: str, entry: Entry, moment: Moment) -> None:
        bare = name.removesuffix("_total")
        unit = bare.rpartition("_")[2]
        kind = GaugeMetricFamily if bare == name else CounterMetricFamily
        unit *= unit in ("bytes", "seconds")
        self._metric = kind(bare, entry.words, labels=entry.labels, unit=unit)
        for values, value in entry.rows(moment):
            self._metric.add_metric(values, value)

    def collect(self) -> Iterable[Metric]:
        """It, if it has values."""
        return [self._metric] if self._metric.samples else []
