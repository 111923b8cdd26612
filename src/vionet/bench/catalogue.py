"""The names of all benches, and what each is about, known without importing any."""

from typing import Final

BENCHES: Final[dict[str, str]] = {
    "guests": "TCP and UDP between real kernels, against QEMU's netdevs and vde_switch.",
}
