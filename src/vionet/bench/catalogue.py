"""The names of all benches, and what each is about, known without importing any."""

from typing import Final

BENCHES: Final[dict[str, str]] = {
    "forward": "Frames/s by size, way and kind of ring.",
    "peers": "The same load through testpmd and Open vSwitch.",
    "tap": "Guest to tap and back, against bare system calls.",
    "guests": "TCP and UDP between real kernels, against QEMU's netdevs and vde_switch.",
    "cost": "Where a frame's nanoseconds go, feature by feature.",
    "scale": "More ports, more addresses, a second worker.",
    "idle": "What 16 silent guests cost: nothing, one hopes.",
    "wake": "Kick to delivery after 10 ms of silence.",
    "start": "Until a switch is ready, and its memory.",
    "churn": "Whether traffic stands still as ports come.",
}
