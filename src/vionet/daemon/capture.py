"""The request `capture`: records of frames for whoever asked, for as long as they stay.

How it works: what is asked is judged, the fabric makes a ring (`fabric.capture`), and its two
descriptors go with the answer.  From then on nothing is said on the connection; its end, or a word
on it, is the end of the capture.  `captured` is the other side, in another process: it asks, and
has the ring read (`capture.reader`); what the ports in its records are, the status says.

Trust: who may ask sees all traffic, so it is the administrator.  The filter is a program that runs
in the engine: the fabric looks through it first.  What the client does with its end of ring and
pipe harms its own capture only.
"""

import asyncio
import binascii
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from vionet.config.option import suggest
from vionet.daemon.control import (
    Attached,
    ControlError,
    RequestError,
    ask_status,
    connected,
)
from vionet.daemon.status import LivePort

if TYPE_CHECKING:
    from vionet.capture.pcapng import Interface
    from vionet.capture.reader import Reader, View
    from vionet.fabric.capture import CaptureRing

PATIENCE_S: Final = 30.0  # a large ring takes its time
ALL: Final = 1 << 20  # more than a frame has
USAGE: Final = 'capture needs "snap":BYTES, "ring":BYTES, "code":BASE64, "whole":true|false'


class Capturing(Protocol):
    """What makes captures (`daemon.plug`)."""

    @property
    def live(self) -> Mapping[str, LivePort]:
        """The ports by name."""

    def capture(self, port: str | None, **settings: Any) -> "CaptureRing":
        """Record what passes a port, or all of them; a ValueError says why not."""

    def end_capture(self, ring: "CaptureRing") -> None:
        """Record no more."""


def capture(
    request: Mapping[str, Any], fabric: str, plugs: Capturing, over: asyncio.Event
) -> Attached:
    """Begin a capture; it ends with the connection, or when the fabric is `over`."""
    port = request.get("port")
    snap, whole, ring_len = (request.get(key) for key in ("snap", "whole", "ring"))
    code = _decoded(request.get("code", ""))
    if not (_is_size(snap) and _is_size(ring_len) and isinstance(whole, bool)) or code is None:
        raise RequestError(USAGE)
    if port is not None and (not isinstance(port, str) or port not in plugs.live):
        raise RequestError(f"{port}: no such port; {suggest(str(port), plugs.live)}")
    try:
        ring = plugs.capture(port, snap_len=snap, whole=whole, code=code, ring_len=ring_len)
    except ValueError as error:
        raise RequestError(str(error)) from None
    except OSError as error:
        raise RequestError(f"no memory for a ring: {error.strerror}; ask for a smaller") from None
    log = structlog.get_logger("vionet.daemon").bind(fabric=fabric, port=port)
    log.info("capture begun")

    async def attach(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [asyncio.ensure_future(one) for one in (reader.read(1), over.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    def release() -> None:
        log.info("capture ended", records=ring.records, lost=ring.lost)
        plugs.end_capture(ring)

    answer = {"fabric": fabric, "port": port, "ring": ring_len}
    return Attached(attach, answer, (ring.fd, ring.notify_fd), release)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40


def _decoded(code: object) -> bytes | None:
    try:
        return b64decode(code, validate=True) if isinstance(code, str) else None
    except (binascii.Error, ValueError):
        return None


@contextmanager
def captured(
    path: Path,
    fabric: Mapping[str, Any],
    port: str | None,
    view: "View",
    code: bytes,
    ring_len: int,
) -> "Iterator[tuple[Reader, int]]":
    """A capture at the control socket `path`, of the fabric with this part of the status document.

    *Yields* its reader, and what is readable when vionet has ended it.  The engine is to be loaded.
    """
    from vionet.capture.reader import Reader, RingError

    # Where receivers' sums are verified once more, all bytes are needed; the reader cuts.
    snap_len = view.snap_len if view.snap_len and not view.delivered else ALL
    members: dict[str, Any] = {"snap": snap_len, "whole": True}
    members |= {"fabric": fabric["name"], "code": b64encode(code).decode(), "ring": ring_len}
    fds: list[int] = []
    try:
        asked = connected(path, "capture", wait_s=PATIENCE_S, fds=fds, port=port, **members)
        with asked as (connection, _, _):
            ports = Ports(path, fabric)
            if len(fds) != 2:
                raise RingError("no ring came")
            first = ports.interface(port) if port else ports.whole
            ring_fd, notify_fd = fds
            reader = Reader(ring_fd, notify_fd, ring_len, view, first, ports.of)
            yield reader, connection.fileno()
    except RingError as error:
        raise ControlError(path, f"{error}; use the same version of vionet on both sides") from None
    finally:
        for fd in fds:
            os.close(fd)


class Ports:
    """What a fabric's ports are, by their serial numbers; asked again when one is new."""

    def __init__(self, path: Path, fabric: Mapping[str, Any]) -> None:
        """As the document has them."""
        from vionet.capture.pcapng import Interface

        self._make, self._path = Interface, path
        self._known: dict[int, Interface] = {}
        self._by_name: dict[str, Interface] = {}
        self.whole = Interface(fabric["name"], f"{fabric['kind']}; what was lost on the way here")
        self._learn(fabric)

    def interface(self, name: str) -> "Interface":
        """The port of this name, now."""
        return self._by_name[name]

    def of(self, serial: int) -> "Interface":
        """The port with this number, which may be gone."""
        if serial not in self._known:
            with suppress(ControlError, LookupError):
                fabrics = ask_status(self._path)["fabrics"]
                self._learn(next(one for one in fabrics if one["name"] == self.whole.name))
        return self._known.setdefault(serial, self._make(f"port {serial}", "gone"))

    def _learn(self, fabric: Mapping[str, Any]) -> None:
        for port in fabric["ports"]:
            said = f"{port['kind']} of {fabric['name']}, policy {port['policy']}"
            one = self._make(port["name"], said, port["mac"] or port["last_mac"])
            self._known.setdefault(port["serial"], one)
            self._by_name[port["name"]] = self._known[port["serial"]]
