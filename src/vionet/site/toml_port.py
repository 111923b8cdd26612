"""Options of a port as keys of a TOML table: `mac="…"`, `locked=true`, `features=["-host_uso"]`.

How it works: each key becomes a piece of a PORT as the command line has it (`mac=…`, `locked`,
`-host_uso`), and `config.port` judges the pieces; what it refuses is told at the key that the piece
came from, and the others are judged without it, so that every mistake is found.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from vionet.config.option import ConfigError
from vionet.config.port import Kind, PortConfig, parse_port
from vionet.site.toml_value import Table, Value, each, flag, ifgroup, path, table, text

Piece = tuple[str, Value]
KINDS: Final = (Kind.GUEST, Kind.TAP, Kind.INTERFACE, Kind.STREAM)
_SOCKETS: Final = (Kind.GUEST, Kind.STREAM)


def _plain(word: str) -> str:
    if "," in word:
        raise ValueError("a comma, which ends an option; leave it out")
    return word


def _flag(value: Value) -> list[Piece]:
    return [(value.key, value)] if flag(value) else []


def _option(value: Value) -> list[Piece]:
    """Text or a whole number."""
    if type(value.raw) is not int:
        text(value)
    return [(_plain(f"{value.key}={value.raw}"), value)]


def _options(value: Value) -> list[Piece]:
    """A value, or a list of them."""
    if isinstance(value.raw, list):
        return list(chain.from_iterable(each(_option)(value)))
    return _option(value)


def _features(value: Value) -> list[Piece]:
    return list(each(_feature)(value))


def _feature(value: Value) -> Piece:
    word = _plain(text(value))
    if word[:1] not in ("+", "-"):
        raise ValueError(f'{word}: write the name after a sign, as in "-host_uso"')
    return word, value


def _where(value: Value) -> str:
    return _plain(text(value))


def _socket(value: Value) -> str:
    return _plain(str(path(value)))


def _read_as(read: Callable[[Value], list[Piece]], *keys: str) -> Table:
    return {key: (key, read) for key in keys}


GUEST: Final[Table] = {  # what a machine's NIC may have too
    **_read_as(_option, "mac", "policy", "offload", "mtu", "vlan", "trunk", "link"),
    **_read_as(_option, "queues", "speed"),
    **_read_as(_flag, "locked", "isolated"),
    **_read_as(_options, "ip"),
    "features": ("features", _features),
}
PORT: Final[Table] = {
    "switch": ("switch", text),
    **{name: (name, _socket if name in _SOCKETS else _where) for name in KINDS},
    **GUEST,
    **_read_as(_flag, "client"),
    **_read_as(_option, "mode", "group", "netns"),
    **_read_as(_options, "address"),
    "ifgroup": ("ifgroup", ifgroup),
}


def judged(
    fields: Mapping[str, Any], whole: Value, parse: Callable[[Sequence[str]], PortConfig]
) -> PortConfig | None:
    """The port of the pieces in `fields`; of those that are good, where some are not."""
    listed = (one for one in fields.values() if isinstance(one, list))
    pieces: list[Piece] = list(chain.from_iterable(listed))
    while True:
        try:
            return parse([word for word, _ in pieces])
        except ConfigError as error:
            problem = error.problem
        guilty = {word for word, _ in pieces if _names(problem, word)}
        if not guilty:
            whole.fail(problem)
            return None
        value = next(value for word, value in pieces if word in guilty)
        value.fail(problem.removeprefix(f"{value.key}=").removeprefix(f"{value.key}: "))
        if value.key == "mac":
            guilty.add("locked")  # which needs it
        pieces = [piece for piece in pieces if piece[0] not in guilty]


def _names(problem: str, word: str) -> bool:
    return problem.startswith((f"{word}: ", f"{word.partition('=')[0]}: "))


def port(value: Value) -> tuple[str | None, PortConfig | None]:
    """One `[port.NAME]`: the switch that it is plugged into, and what it is."""
    fields = table(value, PORT)
    if value.get("switch") is None:
        value.fail('plugged in nowhere; write switch="NAME"')
    given = [one for kind in KINDS if (one := value.get(kind))]
    if len(given) != 1:
        several = f"{' and '.join(one.key for one in given)} at once" if given else "of no kind"
        value.fail(
            f'{several}; write one of guest="a.sock", tap="vio0", interface="eth1", stream="…"'
        )
    elif (kind := given[0].key) in fields:
        head = f"{kind}:{fields[kind]}"
        name = value.key
        made = judged(fields, given[0], lambda words: parse_port(name, ",".join([head, *words])))
        if made and "ifgroup" in fields:
            if made.kind is not Kind.TAP:
                value.item("ifgroup", "").fail("of a tap; leave it out")
            made = replace(made, ifgroup=fields["ifgroup"])
        return fields.get("switch"), made
    return None, None
