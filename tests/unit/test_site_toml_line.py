"""Where the keys of a TOML document stand, and that no document brings the reader down."""

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vionet.site.model import Site, SiteError
from vionet.site.toml import KEYS, read_toml
from vionet.site.toml_line import Lines, Place, dotted
from vionet.site.toml_vm import vm_from_table

DOCUMENT = '''\
top = 1  # one
"quo\\u0074ed" = [1,
  2, [3,
    4]]
text = """
[no.table]
no = "key" """
four = """a""\\""""" # "
'lit.eral' = \'\'\'
[no]
\'\'\'
a.b . "c" = { d = 1, e = {f = [
  {g = 1}, {g = 2}] } }
[ t . u ]
x = 1979-05-27 07:32:00.5
[[list]]
x = 1
[list.sub]
y = 1.5
[[list]]
x = 2
[[list.inner]]
z = ""
[[list.inner]]
z = "#"
[list.sub]
y = [ "]", ",", # ]
  '}']
'''
LINES: dict[Place, int] = {
    ("top",): 1,
    ("quoted",): 2,
    ("quoted", 0): 2,
    ("quoted", 1): 3,
    ("quoted", 2): 3,
    ("quoted", 2, 1): 4,
    ("text",): 5,
    ("four",): 8,
    ("lit.eral",): 9,
    ("a",): 12,
    ("a", "b", "c", "d"): 12,
    ("a", "b", "c", "e", "f", 0, "g"): 13,
    ("a", "b", "c", "e", "f", 1, "g"): 13,
    ("t",): 14,
    ("t", "u"): 14,
    ("t", "u", "x"): 15,
    ("list",): 16,
    ("list", 0): 16,
    ("list", 0, "x"): 17,
    ("list", 0, "sub", "y"): 19,
    ("list", 1): 20,
    ("list", 1, "x"): 21,
    ("list", 1, "inner", 0, "z"): 23,
    ("list", 1, "inner", 1): 24,
    ("list", 1, "sub"): 26,
    ("list", 1, "sub", "y", 1): 27,
    ("list", 1, "sub", "y", 2): 28,
    # What is not there is where it would be.
    ("no",): 1,
    ("t", "u", "v", "w"): 14,
    ("list", 0, "inner"): 16,
}


def places(raw: Any, above: Place = ()) -> list[Place]:
    """The places of all values below a value."""
    pairs = raw.items() if isinstance(raw, dict) else enumerate(raw)
    found = []
    for key, value in pairs:
        found.append((*above, key))
        if isinstance(value, dict | list):
            found += places(value, (*above, key))
    return found


def test_lines() -> None:
    """Strings, comments, arrays and tables of every kind do not lead the search astray."""
    lines = Lines(DOCUMENT)
    assert {place: lines.of(place) for place in LINES} == LINES
    known = places(tomllib.loads(DOCUMENT))
    assert set(LINES) & set(known) == set(LINES) - {("no",), ("t", "u", "v", "w")} - {
        ("list", 0, "inner")
    }


def test_dotted() -> None:
    """A place is told as people write it, on one line, however long a key is."""
    assert "vm.web.interface[0].mac" == dotted(("vm", "web", "interface", 0, "mac"))
    assert "'a\\nb'" == dotted(("a\nb",))
    assert 64 == len(dotted(("k" * 1000,)))


KEY = st.sampled_from(["a", "b-c", '"d.e"', "'f g'", '"\\u0061"', "1"])
SCALAR = st.sampled_from(
    ["1", "-1.5e3", "true", '"x"', "''", '"""\n[a]\nb = 1 """', "'''\n'''", "2000-01-01", '"\\""']
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ",\n".join(items) + "]")
        | st.lists(st.tuples(KEY, inner), max_size=2).map(
            lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"
        )
    ),
    max_leaves=6,
)
LINE = st.one_of(
    st.tuples(KEY, VALUE).map(" = ".join),
    st.tuples(KEY, KEY, VALUE).map(lambda three: f"{three[0]}.{three[1]} = {three[2]}  # x"),
    KEY.map(lambda key: f"[{key}]"),
    st.tuples(KEY, KEY).map(lambda two: f"[{two[0]} . {two[1]}]"),
    KEY.map(lambda key: f"[[{key}]]"),
    st.sampled_from(["", "# [a]", "\t"]),
)


@given(st.lists(LINE, max_size=12))
@settings(max_examples=150, deadline=None)
def test_every_key_is_on_its_line(texts: list[str]) -> None:
    """Of whatever tomllib understands, each key's line is one that has the key in it."""
    text = "\n".join(texts)
    try:
        document = tomllib.loads(text)
    except ValueError:
        return
    lines, rows = Lines(text), text.splitlines()
    for place in places(document):
        if isinstance(key := place[-1], str):
            row = rows[lines.of(place) - 1]
            assert key in row or '"\\u0061"' in row, (place, row)


WORDS = sorted({key for table in KEYS.values() for key in table} | {"lan", "web", "memroy"})
TABLES = [
    *("[switch.lan]", "[vm.web]", "[[vm.web.interface]]", "[vm.web.disk]", "[vm.two]"),
    *("[port.a]", "[local]", "[vm.web.seed]", "[[vm.two.interface]]", "[switch.'a b']"),
]
RAW = st.sampled_from(
    [
        *("1", "0", "-1", "true", "false", "nan", "1.5", '"1G"', '"512M"', '"lan"', '"web"'),
        *('"52:54:00:00:00:01"', '"passt"', '"tap"', '"192.0.2.0/24"', '"fd00::/48"', '"/x"'),
        *('["+csum", "-csum"]', '["-guest_csum", "+guest_tso4"]', "[]", '["a", 1]', "{}"),
        *('{size = "1G"}', '{path = "p", read_only = true}', '[{size = "2G"}, "x"]', '""'),
        *('"\\u0000"', '"\\u2028"', '"q35"', '"network"', "07:32:00", '["192.0.2.1", "fd00::1"]'),
        *('"root"', '"a,b"', "[[[]]]", '"10+20"', '"up"', "[0]", '["memory"]', '"microvm"'),
    ]
)
ROW = st.sampled_from(TABLES) | st.tuples(st.sampled_from(WORDS), RAW).map(" = ".join)


def read_or_refuse(text: str) -> None:
    """A site, or every problem with a line of the text."""
    try:
        assert isinstance(read_toml(Path("/x/f.toml"), text), Site)
    except SiteError as error:
        assert error.problems
        for problem in error.problems:
            path, line, said = problem.split(":", 2)
            assert "/x/f.toml" == path
            assert 1 <= int(line) <= text.count("\n") + 1
            assert said.startswith(" ")
            assert problem.isprintable()


@given(st.lists(ROW, max_size=14))
@settings(max_examples=200, deadline=None)
def test_any_keys_are_a_site_or_mistakes(rows: list[str]) -> None:
    """Whatever stands wherever, the answer is a site, or lines that say what is wrong."""
    read_or_refuse("\n".join(rows))


@given(st.text(max_size=60) | st.text("[]{}=\"',.#\n ab\\", max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_site_or_mistakes(text: str) -> None:
    """The same of any text at all."""
    read_or_refuse(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(WORDS), JSON, max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_table_is_a_machine_or_mistakes(table: dict[str, Any]) -> None:
    """The same of what arrives by the control socket."""
    with suppress(SiteError):
        vm_from_table("x", table, None, Path("/x"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "text",
    [
        "a" * (1 << 20),
        "a." * (1 << 19),
        "[" * (1 << 20),
        "a=" + "[" * 500 + "]" * 500,
        "a=" + "{b=" * 500 + "1" + "}" * 500,
        "\n".join(f"[[vm.a.interface]]\nfeatures={['-x'] * 60}" for _ in range(250)),
        "\n".join(f"[vm.v{k}]\ninstance='v{k + 1}'" for k in range(1000)),
        'x="""' + '"' * (1 << 19),
        '"' * (1 << 20),
        '"."' * (1 << 18),
        "'.' " * (1 << 18),
    ],
    ids=range(11),
)
def test_no_text_takes_long(text: str) -> None:
    """A megabyte that is made to take long is refused in time."""
    with pytest.raises(SiteError):
        read_toml(Path("/x/f.toml"), text)
