"""One end of a pair: which guest, with which port options and device properties, agreeing to what.

How it works: a text such as `uml offload=off` or `qemu -guest_csum mrg_rxbuf=off`.  Words with a
sign, `offload=` and `policy=` are options of vionet's port, other words are properties of QEMU's
device; both only ever take features away, so what must be negotiated follows from the text.
"""

from dataclasses import dataclass
from typing import Any

from tests.interop.lab import Lab
from tests.interop.peers.shell import Console
from vionet.spec import virtio

# The features that a pair is about, by the names that people use.
SUBJECT = {
    "csum": "VIRTIO_NET_F_CSUM",
    "guest_csum": "VIRTIO_NET_F_GUEST_CSUM",
    "mrg_rxbuf": "VIRTIO_NET_F_MRG_RXBUF",
    "indirect_desc": "VIRTIO_F_INDIRECT_DESC",
    "event_idx": "VIRTIO_F_EVENT_IDX",
    "version_1": "VIRTIO_F_VERSION_1",
}
BITS = {virtio.BITS[name] for name in SUBJECT.values()}


@dataclass(frozen=True)
class End:
    """What the text of one end means."""

    kind: str
    port: str
    device: dict[str, str]
    features: set[str]

    @classmethod
    def read(cls, text: str) -> "End":
        """Read `KIND WORD...`."""
        kind, *words = text.split()
        port = [word for word in words if word[0] in "+-" or word.startswith(("offload", "policy"))]
        device = dict(word.split("=") for word in words if word not in port)
        features = set(SUBJECT) - {word[1:] for word in port if word[0] == "-"}
        features -= {name for name, value in device.items() if value == "off"}
        if "offload=off" in port:
            features -= {"csum", "guest_csum"}
        if device.get("disable-modern") == "on":
            features -= {"version_1"}
        return cls(kind, ",".join(port), device, features)

    @property
    def takes_partial(self) -> bool:
        """Whether this guest may ever see a partial checksum."""
        return "guest_csum" in self.features and "complete" not in self.port

    def start(self, lab: Lab, name: str) -> Console:
        """The booting guest."""
        return lab.uml(name) if self.kind == "uml" else lab.qemu(name, self.device)

    def check(self, guest: Console, port: dict[str, Any]) -> None:
        """The guest's kernel and vionet's `port` both say that exactly this was negotiated."""
        wanted = {SUBJECT[name] for name in self.features}
        assert wanted == {virtio.NAMES[bit] for bit in guest.features() & BITS}
        assert wanted == set(port["features"]) & set(SUBJECT.values())
