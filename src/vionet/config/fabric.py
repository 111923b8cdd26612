"""The ports of one command together: `NAME=PORT …` of a switch, the two PORTs of a wire."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from vionet.config.option import RESERVED_USUAL, ConfigError, cores, reserved, workers
from vionet.config.port import PortConfig, parse_port
from vionet.engine.status import FabricKind

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
_NAME_RULE: Final = "use up to 32 letters, digits, dots, dashes and underscores"
_WIRE_NAMES: Final = ("a", "b")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricConfig:
    """One switch or one wire as a person asked for it."""

    name: str
    kind: FabricKind
    ports: tuple[PortConfig, ...]
    reserved: int = reserved(RESERVED_USUAL)  # a bit for each reserved multicast that passes
    workers: int = 1  # threads that forward
    cores: tuple[int, ...] = ()  # of the first of them

    def with_port(self, text: str) -> "FabricConfig":
        """With one more port, `NAME=PORT`, as if it had been there from the start."""
        self._check_open(text)
        port = parse_named(text)
        if port.fd is not None:
            raise ConfigError(text, f"fd={port.fd}: vionet runs already; give the tap's name")
        return self._with((*self.ports, port))

    def without_port(self, name: str) -> "FabricConfig":
        """Without one port, which may be the last."""
        self._check_open(name)
        return self._with([port for port in self.ports if port.name != name])

    def _check_open(self, where: str) -> None:
        if self.kind is FabricKind.WIRE:
            raise ConfigError(where, "a wire keeps the two ports that it has; use a switch")

    def _with(self, ports: Sequence[PortConfig]) -> "FabricConfig":
        joined = _joined(self.name, self.kind, ports, self.reserved)
        return replace(self, ports=joined.ports)

    def check_vlans(self, port: PortConfig) -> None:
        """A wire does not look at tags."""
        if self.kind is FabricKind.WIRE and (port.vlan, port.trunk) != (None, None):
            key = "trunk" if port.vlan is None else "vlan"
            problem = f"{key}: a wire passes every frame as it is; use a switch"
            raise ConfigError(port.name, problem)


def parse_name(text: str, where: str) -> str:
    """The name of a port or a fabric; it becomes part of file names and log lines."""
    if not _NAME.fullmatch(text):
        raise ConfigError(where, f"{text!r} cannot be a name; {_NAME_RULE}")
    return text


def parse_switch(
    name: str,
    texts: Sequence[str],
    passing: str = RESERVED_USUAL,
    threads: str = "1",
    pin: str | None = None,
) -> FabricConfig:
    """A switch from its `NAME=PORT` arguments; `passing`: reserved multicast addresses."""
    ports = [parse_named(text) for text in texts]
    word = _option("--reserved", reserved, passing)
    count = _option("--workers", workers, threads)
    return replace(_joined(name, FabricKind.SWITCH, ports, word), **_threads(count, pin))


def _option(key: str, read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise ConfigError(f"{key} {text}", str(error)) from None


def _threads(count: int, pin: str | None) -> dict[str, Any]:
    on = _option("--pin", cores, pin) if pin is not None else ()
    if len(on) > count:
        one = "worker" if count == 1 else "workers"
        raise ConfigError(f"--pin {pin}", f"{len(on)} cores for {count} {one}; name fewer")
    return {"workers": count, "cores": on}


def parse_named(text: str) -> PortConfig:
    """One `NAME=PORT` of a switch."""
    label, equals, port = text.partition("=")
    # `guest:/run/a=b` has an equals sign, but no name in front of it.
    if not equals or ":" in label or "," in label:
        raise ConfigError(text, f"the port needs a name; write a={text}")
    return parse_port(parse_name(label, text), port)


def parse_wire(name: str, texts: Sequence[str], pin: str | None = None) -> FabricConfig:
    """A wire from its two `PORT` arguments, which may be named as those of a switch are.

    One worker serves both ports: a frame that one has no room for waits at the other.
    """
    if len(texts) != 2:
        raise ConfigError("wire", f"{len(texts)} ports; a wire joins exactly two")
    ports = []
    for default, text in zip(_WIRE_NAMES, texts, strict=True):
        label, equals, port = text.partition("=")
        named = bool(equals) and ":" not in label and "," not in label
        label = parse_name(label, text) if named else default
        ports.append(parse_port(label, port if named else text))
    return replace(_joined(name, FabricKind.WIRE, ports, reserved("all")), **_threads(1, pin))


def _joined(name: str, kind: FabricKind, ports: Sequence[PortConfig], passing: int) -> FabricConfig:
    """Refuse two ports that claim the same thing."""
    claims: dict[tuple[str, object], str] = {}
    for port in ports:
        mine: list[tuple[str, object]] = [("the name", port.name)]
        if port.where:
            mine.append((f"{port.kind}:{port.where}", ""))
        if port.fd is not None:
            mine.append((f"fd={port.fd}", ""))
        if port.mac is not None:
            mine.append((f"mac={port.mac_text}", ""))
        for claim in mine:
            if claim in claims:
                what = " ".join(filter(None, map(str, claim)))
                problem = f"{what} is taken by port {claims[claim]} too; change one of them"
                raise ConfigError(port.name, problem)
            claims[claim] = port.name
    fabric = FabricConfig(
        name=parse_name(name, "--name"), kind=kind, ports=tuple(ports), reserved=passing
    )
    for port in ports:
        fabric.check_vlans(port)
    return fabric
