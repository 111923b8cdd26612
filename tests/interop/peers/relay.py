"""A tap on a stream: between vionet's socket and its peer, writing what passes to a capture file.

How it works: a thread listens in place of vionet, connects to vionet for whoever connects, copies
bytes both ways and cuts them into frames by their lengths, as any peer must.  The capture file is
the classic pcap format, for tshark.

Invariants: the peer hears nothing else than what vionet wrote, and the other way round.
"""

import contextlib
import select
import socket
import struct
import threading
from pathlib import Path

from tests.interop.peers.netns import Recording

_FILE_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1)


class Relay(Recording):
    """Listens at `here`, connects to `there`; `sizes` are those of the frames from `there`."""

    def __init__(self, here: Path, there: Path) -> None:
        super().__init__(here.with_suffix(".pcap"))
        self.sizes: set[int] = set()
        self.largest = 0  # of the frames to `there`
        self._there = there
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(here))
        self._listener.listen()
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and finish the capture file."""
        self._stop.close()
        self._thread.join(60)
        self._listener.close()
        self._stopped.close()

    def _serve(self) -> None:
        with contextlib.ExitStack() as stack:
            record = stack.enter_context(self.file.open("wb"))
            record.write(_FILE_HEADER)
            if self._listener not in select.select([self._listener, self._stopped], [], [])[0]:
                return
            peer = stack.enter_context(self._listener.accept()[0])
            vionet = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            vionet.connect(str(self._there))
            other = {peer: vionet, vionet: peer}
            pending = {peer: bytearray(), vionet: bytearray()}
            while True:
                ready = select.select([peer, vionet, self._stopped], [], [])[0]
                if self._stopped in ready:
                    return
                for one in ready:
                    data = one.recv(1 << 17)
                    if not data:
                        return
                    other[one].sendall(data)
                    pending[one] += data
                    for frame in _cut(pending[one]):
                        if one is vionet:
                            self.sizes.add(len(frame))
                        else:
                            self.largest = max(self.largest, len(frame))
                        record.write(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame)


def _cut(pending: bytearray) -> list[bytes]:
    """Take the complete frames off the front."""
    found = []
    while len(pending) >= 4 and len(pending) >= (end := 4 + int.from_bytes(pending[:4], "big")):
        found.append(bytes(pending[4:end]))
        del pending[:end]
    return found
