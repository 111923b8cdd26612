"""The services of a local interface on a host's interface: run in the namespace that is the host.

How it works: a packet socket on `interface` and a socket pair; what the engine would divert to a
service goes in, as records, and what the responder writes goes out.  The kernel is the gateway.

Usage: local_service.py INTERFACE GUEST_MAC
"""

import asyncio
import socket
import sys
from dataclasses import replace
from pathlib import Path

from tests.asking import RICH
from vionet.services.lease import Lease
from vionet.services.responder import Responder

OUTGOING = 4  # PACKET_OUTGOING: what we have sent ourselves


def diverted(frame: bytes) -> bool:
    """Whether the engine would hand this frame to the service: requests, and nothing else."""
    if frame[12:14] == b"\x08\x00":
        return frame[23] == 17 and frame[36:38] == (67).to_bytes(2, "big")
    if frame[12:14] != b"\x86\xdd":
        return False
    request = frame[20] == 17 and frame[56:58] == (547).to_bytes(2, "big")
    return request or (frame[20] == 58 and frame[54] == 133)


async def serve(interface: str, lease: Lease) -> None:
    """Move frames between the interface and the responder."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    packets.bind((interface, 3))
    for end in (near, packets):
        end.setblocking(False)

    def inward() -> None:
        frame, (_, _, kind, _, _) = packets.recvfrom(65536)
        if kind != OUTGOING and diverted(frame):
            near.send(len(frame).to_bytes(4, "big") + frame)

    loop.add_reader(packets, inward)
    service = Responder(far, lease, "local")
    service.start()
    print("ready", flush=True)
    rest = b""
    while True:
        rest += await loop.sock_recv(near, 65536)
        while len(rest) >= 4 and len(rest) >= 4 + (length := int.from_bytes(rest[:4], "big")):
            packets.send(rest[4 : 4 + length])
            rest = rest[4 + length :]


if __name__ == "__main__":
    _, name, mac = sys.argv
    host = Path(f"/sys/class/net/{name}/address").read_text().strip()
    macs = [int(text.replace(":", ""), 16) for text in (mac, host)]
    asyncio.run(serve(name, replace(RICH, mac=macs[0], gateway_mac=macs[1])))
