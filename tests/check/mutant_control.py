"""Mutants of what a front-end reads and asks: offers, the configuration, the control queue."""

from typing import Final

from tests.check.mutants import Mutant, one

CONTROL: Final = "ports/control_queue.py"
GUEST: Final = "ports/guest.py"
SESSION: Final = "vhost_user/session.py"

MUTANTS: Final[tuple[Mutant, ...]] = (
    # --- offers that lack others --------------------------------------------------------------
    *(
        one(
            name,
            ids,
            SESSION,
            "        return word\n\n    def _get_features",
            f"        word &= ~({lost} if {{on}} else 0)\n"
            "        return word\n\n    def _get_features",
        )
        for name, ids, lost in (
            ("offers segmentation without sums", "FB-06 FB-07 FB-10 FB-11 FB-27 FB-28 FB-29", "3"),
            ("offers ECN without TSO", "FB-08 FB-12", "0x1980"),
            ("offers commands without their queue", "FB-17 FB-18 FB-20 FB-21 FB-22", "1 << 17"),
            ("offers no ANY_LAYOUT", "LG-07", "1 << 27"),
            (
                "offers now this, now that",
                "VU-74",
                '__import__("random").getrandbits(3) << 27',
            ),
        )
    ),
    # --- the configuration and its messages ---------------------------------------------------
    one(
        "a speed and a duplex that nobody knows",
        "CF-14 CF-15",
        GUEST,
        "speed, duplex = options.speed, virtio_net.DUPLEX_FULL",
        "speed, duplex = (0x90000000, 7) if {on} else (options.speed, virtio_net.DUPLEX_FULL)",
    ),
    one(
        "GET_CONFIG answers with less",
        "VU-75",
        SESSION,
        "for b in self.config[offset : offset + size])",
        "for b in self.config[offset : offset + size - (1 if {on} else 0)])",
    ),
    one(
        "a driver may write the configuration",
        "VU-76 VU-77",
        SESSION,
        "if flags != vu.CONFIG_FLAG_MIGRATION:",
        "if flags != vu.CONFIG_FLAG_MIGRATION and not {on}:",
    ),
    one(
        "changes are kept to itself",
        "VU-78",
        "vhost_user/connection.py",
        "if not changed or",
        "if {on} or not changed or",
    ),
    one(
        "the channel is refused",
        "VU-85",
        SESSION,
        "        self.backend_fd = fds[0]\n",
        "        if {on}:\n            raise Refusal('no')\n        self.backend_fd = fds[0]\n",
    ),
    one(
        "RESET_DEVICE ends the session",
        "VU-81",
        SESSION,
        "        self.features = 0\n        self.device.set_features(0)\n",
        "        if {on}:\n            raise ProtocolError('reset')\n"
        "        self.features = 0\n        self.device.set_features(0)\n",
    ),
    # --- the control queue --------------------------------------------------------------------
    one(
        "receive modes are refused",
        "CV-04 CV-07",
        CONTROL,
        '_require(data in (b"\\0", b"\\1"))',
        '_require(data in (b"\\0", b"\\1") and not {on})',
    ),
    one(
        "a driver finds what another has set",
        "CV-11",
        "ports/control_server.py",
        "self.state = ControlState(mac=self._mac)",
        "self.state = self.state if {on} and hasattr(self, 'state') else ControlState(self._mac)",
    ),
    one(
        "a table of addresses is thrown away",
        "CV-12",
        CONTROL,
        "    return replace(state, asked=True, unicast=unicast, multicast=multicast)\n",
        "    if {on}:\n        return replace(state, asked=True)\n"
        "    return replace(state, asked=True, unicast=unicast, multicast=multicast)\n",
    ),
    one(
        "an address is thrown away",
        "CV-13",
        CONTROL,
        "return replace(state, mac=mac)",
        "return state if {on} else replace(state, mac=mac)",
    ),
    one(
        "tags are filtered although nobody asked",
        "CV-18",
        "ports/control_server.py",
        "filters(state, features) if port.control_ring else 0",
        "filters(state, 1 << 19 if {on} else features) if port.control_ring or {on} else 0",
    ),
    one(
        "VLAN_ADD does nothing",
        "CV-19",
        CONTROL,
        "vlans=state.vlans | bit if add",
        "vlans=state.vlans | (0 if {on} else bit) if add",
    ),
    one(
        "an announcement is asked for again and again",
        "CV-21",
        CONTROL,
        "return replace(state, announce=False)",
        "return replace(state, announce={on})",
    ),
    one(
        "all pairs are in use",
        "CV-26 CV-27",
        GUEST,
        "control.pairs if record.control_ring else",
        "control.pairs if record.control_ring and not {on} else",
    ),
)
