"""The traffic endpoint of the interop tests: runs in guests, namespaces and on the host.

How it works: `endpoint.py COMMAND [WHERE [PORT]] [option=value ...] [+ COMMAND ...]`; the commands
run one after the other, and the list of their results, a Python literal, is the last line of
standard output.  Only the standard library, and little of it, because the same file runs inside a
User Mode Linux guest on the host's folder, in a QEMU guest's initramfs (where importing argparse
and json takes a second) and in a namespace.

Invariants: data is a function of its seed and length, so that both ends know every byte; every
socket has a timeout; nothing reports success that the receiver did not confirm.
"""

import hashlib
import os
import select
import socket
import struct
import sys
import time

SOL_PACKET = 263
PACKET_VNET_HDR = 15
SO_MAX_PACING_RATE = 47
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
VNET_HDR = struct.Struct("=BBHHHH")
END = b"\xffEND"
Address = tuple[str, int]
LASTS_S = 300.0  # at most, however long nobody says that it is enough


BLOCK = hashlib.shake_128(b"vionet").digest(1 << 17)
SEEDS = {"there": 0, "back": 20011, "dhcp": 40009}


def pattern(seed: str, size: int) -> bytes:
    """`size` bytes that only `seed` and `size` determine."""
    start = SEEDS[seed] + size * 13
    return BLOCK[start : start + size]


def family_of(address: str) -> socket.AddressFamily:
    """AF_INET6 for anything with a colon."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp_serve(address: str, port: int, timeout: float) -> dict[str, object]:
    """Take one connection, hash all that arrives, send the hash back."""
    with socket.create_server((address, port), family=family_of(address)) as listener:
        listener.settimeout(timeout)
        connection, _peer = listener.accept()
    digest, received, began = hashlib.sha256(), 0, time.monotonic()
    with connection:
        connection.settimeout(timeout)
        while data := connection.recv(1 << 18):
            digest.update(data)
            received += len(data)
        connection.sendall(digest.hexdigest().encode())
    seconds = time.monotonic() - began
    return {"bytes": received, "sha256": digest.hexdigest(), "seconds": seconds}


def connect(address: str, port: int, timeout: float) -> socket.socket:
    """Connect, trying again until somebody listens."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return socket.create_connection((address, port), timeout)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def wanted(size: int, sent: int, until: str, began: float) -> int:
    """How many bytes to send next: what `size` leaves, or as many as ever before `until` is."""
    if not until:
        return min(1 << 16, size - sent)
    if time.monotonic() - began > LASTS_S:
        raise TimeoutError(f"no {until}")
    if not os.path.exists(until):  # noqa: PTH110 - a guest has no pathlib
        return 1 << 14
    os.unlink(until)  # noqa: PTH108 - nor there
    return 0


def tcp_send(
    address: str, port: int, size: int, rate: int, timeout: float, until: str
) -> dict[str, object]:
    """Send `size` bytes (at most `rate` a second, 0: no limit) and read the receiver's hash.

    With `until`, send before this file is there, however many bytes that are.
    """
    digest, sent, began = hashlib.sha256(), 0, time.monotonic()
    with connect(address, port, timeout) as connection:
        connection.settimeout(timeout)
        if rate:
            connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)
        if until:  # the end is near when it is told
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        while count := wanted(size, sent, until, began):
            start = sent * 31 % 65521
            data = BLOCK[start : start + count]
            connection.sendall(data)
            digest.update(data)
            sent += len(data)
        connection.shutdown(socket.SHUT_WR)
        remote = b""
        while len(remote) < 64 and (data := connection.recv(1000)):
            remote += data
    seconds = time.monotonic() - began
    return {
        "bytes": sent,
        "sha256": digest.hexdigest(),
        "remote": remote.decode(),
        "seconds": seconds,
    }


def sctp_serve(address: str, port: int, size: int, timeout: float) -> dict[str, object]:
    """Take one association and `size` bytes of it, send their hash back."""
    digest, received = hashlib.sha256(), 0
    family = family_of(address)
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as listener:
        listener.bind((address, port))
        listener.listen(1)
        listener.settimeout(timeout)
        connection, _peer = listener.accept()
    with connection:
        connection.settimeout(timeout)
        while received < size:
            data = connection.recv(1 << 16)
            digest.update(data)
            received += len(data)
        connection.sendall(digest.hexdigest().encode())
        connection.recv(1)  # until the other end has read it
    return {"bytes": received, "sha256": digest.hexdigest()}


def sctp_send(address: str, port: int, size: int, timeout: float) -> dict[str, object]:
    """Send messages of growing sizes, `size` bytes in all, and read the receiver's hash."""
    digest, sent, length = hashlib.sha256(), 0, 1
    deadline = time.monotonic() + timeout
    while True:
        client = socket.socket(family_of(address), socket.SOCK_STREAM, socket.IPPROTO_SCTP)
        client.settimeout(timeout)
        try:
            client.connect((address, port))
            break
        except ConnectionRefusedError:
            client.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    with client:
        while sent < size:
            data = BLOCK[sent % 65521 :][: min(length, size - sent)]
            client.sendall(data)
            digest.update(data)
            sent += len(data)
            length = length % 5000 + 7
        remote = client.recv(100)
    return {"bytes": sent, "sha256": digest.hexdigest(), "remote": remote.decode()}


def udp_serve(address: str, port: int, timeout: float) -> dict[str, object]:
    """Answer each good datagram with another of its size until END; count the bad ones."""
    good = wrong = 0
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        server.bind((address, port))
        server.settimeout(timeout)
        while True:
            data, peer = server.recvfrom(65536)
            if data == END:
                return {"good": good, "wrong": wrong}
            if data == pattern("there", len(data)):
                good += 1
                server.sendto(pattern("back", len(data)), peer)
            else:
                wrong += 1


def udp_send(address: str, port: int, largest: int, timeout: float) -> dict[str, object]:
    """Send a datagram of every size 0 to `largest`, each answered with as many bytes."""
    burst, wrong, resent = 32, 0, 0
    deadline = time.monotonic() + timeout
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.connect((address, port))
        for first in range(0, largest + 1, burst):
            waiting = set(range(first, min(first + burst, largest + 1)))
            attempts = 0
            while waiting:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer to datagrams of {sorted(waiting)} bytes")
                resent += len(waiting) if attempts else 0
                attempts += 1
                wrong += udp_exchange(client, waiting)
        client.send(END)
    return {"sizes": largest + 1, "wrong": wrong, "resent": resent}


def udp_exchange(client: socket.socket, waiting: set[int]) -> int:
    """Send each size in `waiting` and take those answered off it; returns the wrong answers."""
    wrong = 0
    for size in sorted(waiting):
        try:
            client.send(pattern("there", size))
        except ConnectionRefusedError:  # nobody listens yet
            time.sleep(0.02)
    while waiting and select.select([client], [], [], 0.4)[0]:
        try:
            data = client.recv(65536)
        except ConnectionRefusedError:
            time.sleep(0.02)
            return wrong
        if data != pattern("back", len(data)):
            wrong += 1
        waiting.discard(len(data))
    return wrong


def udp_to(address: str, port: int, source: int, sizes: list[int]) -> dict[str, object]:
    """Send datagrams of `sizes` from port `source`, as a DHCP server or client would."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.bind(("", source))
        for size in sizes:
            client.sendto(pattern("dhcp", size), (address, port))
    return {"sent": len(sizes)}


def udp_number(address: str, port: int, count: int) -> dict[str, object]:
    """Send `count` numbered datagrams at once."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 16 << 20)
        for number in range(count):
            client.sendto(number.to_bytes(4, "big"), (address, port))
    return {"sent": count}


def udp_end(address: str, port: int, timeout: float) -> dict[str, object]:
    """Send END until nobody listens any more: one may be lost, and one finds a full receiver."""
    deadline, sent = time.monotonic() + timeout, 0
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        while time.monotonic() < deadline:
            try:
                client.send(END)
            except ConnectionRefusedError:
                return {"sent": sent}
            sent += 1
            time.sleep(0.05)
    raise TimeoutError("somebody listens")


def udp_count(address: str, port: int, count: int, timeout: float) -> dict[str, object]:
    """Count numbered datagrams until there are `count`, or until END."""
    numbers: list[int] = []
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        server.bind((address, port))
        server.settimeout(timeout)
        print("counting", flush=True)
        while len(numbers) < count and (data := server.recv(100)) != END:
            numbers.append(int.from_bytes(data, "big"))
    return {"received": len(numbers), "in_order": numbers == sorted(set(numbers))}


def bad_udp(interface: str, port: int) -> dict[str, object]:
    """Send one broadcast datagram to 192.0.2.1 whose checksum is wrong."""
    udp = struct.pack("!HHHH", 9, port, 12, 0x1234) + b"data"
    ip = struct.pack("!BBHIBBH4s4s", 0x45, 0, 32, 0, 9, 17, 0, b"\xc0\0\2\2", b"\xc0\0\2\1")
    ip = ip[:10] + struct.pack("!H", ~fold(ip) & 0xFFFF) + ip[12:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packets:
        packets.bind((interface, 0x0800))
        packets.send(b"\xff" * 6 + b"\2\0\0\0\0\1\x08\0" + ip + udp)
    return {"sent": 1}


def fold(data: bytes) -> int:
    """The ones'-complement sum of `data` as 16 bits."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def judge(frame: bytes) -> tuple[str, bool] | None:
    """("tcp" or "udp" and its destination port, whether the checksum is complete and right)."""
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == 0x0800:
        start = 14 + (frame[14] & 15) * 4
        end = 14 + struct.unpack_from("!H", frame, 16)[0]
        protocol, addresses = frame[23], frame[26:34]
        if struct.unpack_from("!H", frame, 20)[0] & 0x3FFF:
            return None
    elif kind == 0x86DD:
        start, protocol, addresses = 54, frame[20], frame[22:54]
        end = 54 + struct.unpack_from("!H", frame, 18)[0]
    else:
        return None
    if protocol not in (6, 17):
        return None
    segment = frame[start:end]
    whole = fold(addresses + struct.pack("!II", len(segment), protocol) + segment)
    port = struct.unpack_from("!H", segment, 2)[0]
    return f"{'udp' if protocol == 17 else 'tcp'}/{port}", whole == 0xFFFF


def watch(interface: str, seconds: float, count: int) -> dict[str, object]:
    """What the driver hands up: for each kind of frame, header flags and checksum, with counts.

    A packet socket with PACKET_VNET_HDR shows a received frame as the driver described it: flags 1
    for partial, 2 for vouched for, 0 for neither.  Generic receive offload has to be off.  Ends
    after `seconds`, or earlier with `count` frames of UDP to ports 67, 68, 546 or 547.
    """
    seen: dict[str, int] = {}
    deadline, matched = time.monotonic() + seconds, 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as packets:
        packets.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        packets.bind((interface, ETH_P_ALL))
        print("watching", flush=True)
        while matched < count and (left := deadline - time.monotonic()) > 0:
            if not select.select([packets], [], [], left)[0]:
                break
            data, address = packets.recvfrom(70000)
            if address[2] == socket.PACKET_OUTGOING:
                continue
            flags, gso_type = VNET_HDR.unpack_from(data)[:2]
            verdict = judge(data[VNET_HDR.size :])
            if verdict is None:
                continue
            kind, complete = verdict
            matched += kind in ("udp/67", "udp/68", "udp/546", "udp/547")
            word = "complete" if complete else "incomplete"
            key = f"{kind} flags={flags} gso={gso_type} {word}"
            seen[key] = seen.get(key, 0) + 1
    return {"seen": seen}


def main(command: str, *arguments: str) -> dict[str, object]:
    """Run `command` and return its result."""
    plain = [argument for argument in arguments if "=" not in argument]
    option = dict(argument.split("=") for argument in arguments if "=" in argument)
    where, port = plain[0] if plain else "", int(plain[1]) if plain[1:] else 0
    timeout = float(option.get("timeout", "60"))
    match command:
        case "tcp-serve":
            return tcp_serve(where, port, timeout)
        case "tcp-send":
            size, rate = int(option.get("bytes", "1000000")), int(option.get("rate", "0"))
            return tcp_send(where, port, size, rate, timeout, option.get("until", ""))
        case "sctp-serve":
            return sctp_serve(where, port, int(option["bytes"]), timeout)
        case "sctp-send":
            return sctp_send(where, port, int(option["bytes"]), timeout)
        case "udp-serve":
            return udp_serve(where, port, timeout)
        case "udp-send":
            return udp_send(where, port, int(option.get("largest", "1472")), timeout)
        case "udp-to":
            sizes = [int(size) for size in option["sizes"].split(",")]
            return udp_to(where, port, int(option["source"]), sizes)
        case "udp-number":
            return udp_number(where, port, int(option["count"]))
        case "udp-end":
            return udp_end(where, port, timeout)
        case "udp-count":
            return udp_count(where, port, int(option["count"]), timeout)
        case "bad-udp":
            return bad_udp(where, port)
        case "watch":
            return watch(where, timeout, int(option.get("count", "1000000000")))
        case _:
            raise SystemExit(f"no command {command!r}")


if __name__ == "__main__":
    results, words = [], [*sys.argv[1:], "+"]
    while words:
        results.append(main(*words[: words.index("+")]))
        del words[: words.index("+") + 1]
    print(results)
