"""The status document as tables for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from vionet.config.feature import FIXED, short_name
from vionet.spec import virtio
from vionet.terminal import console, plain_table

_UNITS: Final = ("", "k", "M", "G", "T", "P")
_WHO_KEYS: Final = ("name", "kind", "state", "mac", "policy", "offload", "link")
_WHO: Final = ("port", *_WHO_KEYS[1:])
# Ledger keys shown, and the words for them; the JSON document has all of them.
_COLUMNS: Final = (
    ("tx_frames", "sent"),
    ("rx_frames", "received"),
    ("csum_elided", "elided"),
    ("csum_filled", "filled"),
    ("csum_verified", "verified"),
    ("payload_bytes_copied", "copied"),
    ("payload_bytes_summed", "summed"),
)


def count(value: float) -> str:
    """A number in at most five characters: 999, 1.2k, 12k, 3.4M."""
    shown = float(value)
    for unit in _UNITS:
        if shown < 999.5 or unit == _UNITS[-1]:
            break
        shown /= 1000
    if unit and shown < 9.95:
        return f"{shown:.1f}{unit}"
    return f"{shown:.0f}{unit}"


def feature_text(names: Sequence[str]) -> str:
    """What was negotiated beyond the obvious, in short names."""
    bits = [virtio.BITS[name] for name in names if name in virtio.BITS]
    # What is always offered says little; the rest says what the driver agreed to.
    shown = [short_name(bit) for bit in bits if not FIXED >> bit & 1]
    return " ".join(shown) or "-"


def details(port: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What only some ports have to say, as a word and a text each."""
    if port["features"]:
        yield "negotiated", feature_text(port["features"])
        if (refused := feature_text(port["refused"])) != "-":
            yield "refused", refused
    elif port["offered"]:
        yield "offered", feature_text(port["offered"])
    if port["queues_offered"] > 1 and port["queues"]:
        yield "queues", f"{port['queues']} of {port['queues_offered']} pairs in use"
    for key in ("vlan", "trunk"):
        if port[key] is not None:
            yield key, str(port[key])
    if limits := [key for key in ("locked", "isolated") if port[key]]:
        yield "limits", ", ".join(limits)
    for warning in port["warnings"]:
        yield "warning", warning


def print_status(document: Mapping[str, Any]) -> None:
    """The status document as tables."""
    out = console()
    for number, fabric in enumerate(document["fabrics"]):
        if number:
            out.print()
        ports = fabric["ports"]
        out.print(f"{fabric['kind']} {fabric['name']}", style="bold")
        who = plain_table(_WHO, folding=("port",), numbers_from=len(_WHO))
        more = plain_table(
            ("port", "word", "text"), folding=("port", "text"), numbers_from=3, headed=False
        )
        spread = any(port["worker"] for port in ports)
        for port in ports:
            who.add_row(*(port[key] if port[key] is not None else "-" for key in _WHO_KEYS))
            if spread:
                more.add_row(port["name"], "worker", str(port["worker"]))
            for word, text in details(port):
                more.add_row(port["name"], word, text)
        out.print(who)
        out.print()
        if more.row_count:
            out.print(more)
            out.print()
        words = ("port", *(word for _, word in _COLUMNS), "dropped")
        work = plain_table(words, folding=("port",), numbers_from=1)
        for port in ports:
            ledger = port["ledger"]
            row = [count(ledger[key]) for key, _ in _COLUMNS]
            work.add_row(port["name"], *row, count(sum(port["drops"].values())))
        out.print(work)
        for port in ports:
            for reason, dropped in port["drops"].items():
                out.print(f"{port['name']}: dropped {dropped} {reason}")
    out.print()
    out.print("elided, filled, verified: checksums; copied, summed: payload bytes", style="dim")


def _span(seconds: float) -> str:
    """A time in its largest unit: 59s, 12m, 3h, 40d."""
    for unit, length in (("s", 60), ("m", 60), ("h", 24)):
        if seconds < length:
            return f"{seconds:.0f}{unit}"
        seconds //= length
    return f"{seconds:.0f}d"


def print_machines(sites: Sequence[Mapping[str, Any]], now: float) -> None:
    """Machines and their interfaces as tables; `sites` are answers to `vm.list`."""
    out = console()
    for number, site in enumerate(sites):
        if number:
            out.print()
        if len(sites) > 1:
            out.print(f"site {site['site']}", style="bold")
        if not site["vms"]:
            out.print("no machines")
            continue
        who = plain_table(
            ("machine", "state", "for", "memory", "cpus", "owner"),
            folding=("machine", "owner"),
            numbers_from=2,
        )
        plugs = plain_table(
            ("port", "address", "plugged in", "IP"), folding=("port", "plugged in", "IP"),
            numbers_from=4,
        )  # fmt: skip
        for vm in site["vms"]:
            since = _span(max(0.0, now - vm["since"]))
            memory = f"{vm['memory'] >> 20}M"
            who.add_row(vm["name"], vm["state"], since, memory, str(vm["cpus"]), vm["owner"] or "-")
            for one in vm["interfaces"]:
                where = "local" if one["local"] else one["switch"] or "-"
                addresses = " ".join(one["addresses"]) or "-"
                plugs.add_row(one["name"], one["mac"] or "-", where, addresses)
        out.print(who)
        if plugs.row_count:
            out.print()
            out.print(plugs)
        for vm in site["vms"]:
            notes = [vm["reason"]] if vm["reason"] else []
            notes += [f"started again {vm['restarts']} times"] if vm["restarts"] else []
            if notes:
                out.print(f"{vm['name']}: {', '.join(notes)}")
