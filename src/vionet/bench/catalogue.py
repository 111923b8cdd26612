"""The names of all benches, and what each is about, known without importing any."""

from typing import Final

BENCHES: Final[dict[str, str]] = {
    "guests": "TCP and UDP between real kernels, against QEMU's netdevs and vde_switch.",
    "idle": "What 16 silent guests cost: nothing, one hopes.",
    "peers": "The same load through testpmd and Open vSwitch.",
    "start": "Until a switch is ready, and its memory.",
    "wake": "Kick to delivery after 10 ms of silence.",
    "churn": "Whether traffic stands still as ports come.",
}
