"""The text of a vm.conf: comments, continued lines, quotes, macros, includes; what bounds it."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.vmconf import PATH, mistakes, site, warnings
from vionet.site.model import SiteError
from vionet.site.vmconf import read_vmconf
from vionet.site.vmconf_grammar import DEPTH_MAX, FORMS, KEYWORDS
from vionet.site.vmconf_lexer import MISTAKES_MAX, STRING_MAX, TEXT_MAX, Lexer, Reading
from vionet.site.vmconf_lexer import Kind as K


def tokens(text: str) -> list[tuple[K, str, int]]:
    """What a text is cut into, each with its line."""
    lexer = Lexer(Reading(), PATH, text)
    found: list[tuple[K, str, int]] = []
    while (token := lexer.take()).kind is not K.END:
        found.append((token.kind, token.text, token.place.line))
    return found


def disk(text: str) -> str:
    """The path of the only disk of the only machine."""
    return str(site(text).vms[0].vm.disks[0].path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vm\ta  b", [(K.WORD, "vm", 1), (K.WORD, "a", 1), (K.WORD, "b", 1)]),
        ("a{b}", [(K.WORD, "a", 1), (K.SIGN, "{", 1), (K.WORD, "b", 1), (K.SIGN, "}", 1)]),
        ("a,b=c", [(K.WORD, "a", 1), (K.SIGN, ",", 1), (K.WORD, "b", 1), (K.SIGN, "=", 1)]),
        ("12 -3 4G 5.6", [(K.NUMBER, "12", 1), (K.NUMBER, "-3", 1), (K.WORD, "4G", 1)]),
        ("10.0.0.0/8 fe:e1::1", [(K.WORD, "10.0.0.0/8", 1), (K.WORD, "fe:e1::1", 1)]),
        (":wheel /a-b_c.d~", [(K.WORD, ":wheel", 1), (K.WORD, "/a-b_c.d~", 1)]),
        ("a # b\nc", [(K.WORD, "a", 1), (K.NEWLINE, "\n", 1), (K.WORD, "c", 2)]),
        ("a#b", [(K.WORD, "a", 1)]),
        ("# a \\\n b\nc", [(K.NEWLINE, "\n", 2), (K.WORD, "c", 3)]),
        ("a \\\n b", [(K.WORD, "a", 1), (K.WORD, "b", 2)]),
        ("ab\\\ncd e", [(K.WORD, "abcd", 1), (K.WORD, "e", 2)]),
        ("a\\b", [(K.WORD, "ab", 1)]),
        ('"a b" \'c"d\'', [(K.QUOTED, "a b", 1), (K.QUOTED, 'c"d', 1)]),
        (
            r'"a\"b" "c\ d" "e\f"',
            [(K.QUOTED, 'a"b', 1), (K.QUOTED, "c d", 1), (K.QUOTED, "e\\f", 1)],
        ),
        ('"a\nb" c', [(K.QUOTED, "ab", 1), (K.WORD, "c", 2)]),
        ('"a\\\nb" c', [(K.QUOTED, "ab", 1), (K.WORD, "c", 2)]),
        ('"vm"', [(K.QUOTED, "vm", 1)]),
        ("-", [(K.SIGN, "-", 1)]),
        ("é", [(K.SIGN, "é", 1)]),
        ("a\\", [(K.WORD, "a", 1), (K.SIGN, "\\", 1)]),
        ('"abc\nd', [(K.WRONG, "", 1), (K.NEWLINE, "\n", 1), (K.WORD, "d", 2)]),
        ("a$b", [(K.WRONG, "", 1)]),
        ('a"b"', [(K.WRONG, "", 1)]),
        ("$b c", [(K.WRONG, "", 1), (K.WORD, "c", 1)]),
    ],
)
def test_words(text: str, expected: list[tuple[K, str, int]]) -> None:
    """Words, numbers, quoted strings and signs, and the lines on which they stand."""
    assert expected == tokens(text)[: len(expected)]


def test_macros() -> None:
    """A macro stands for its value wherever a word begins; what follows without a blank joins."""
    assert "/vm/a.img" == disk('dir="/vm"\nvm a { disk $dir/a.img }')
    assert "/vm/a.img" == disk('dir=/vm\nvm a { disk $dir "/a.img" }')
    assert "/b" == disk("a=/a\na=/b\nvm a { disk $a }")
    assert "/b" == disk("a=/b\nc=$a\nvm a { disk $c }")
    assert "/d e" == disk("line=\"disk '/d e'\"\nvm a { $line }")


def test_macros_are_not_expanded_in_quotes() -> None:
    """What is in quotes is taken as it is, in a macro's value too."""
    assert "/$dir" == disk("dir=/vm\nvm a { disk '/$dir' }")
    assert ["3: '$' where PATH belongs; write disk PATH [format FORMAT]"] == [
        one for one in mistakes('b=/x\na="$b"\nvm c { disk $a }') if "PATH" in one
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vm a { disk $b }", "1: no macro b; define b=… above"),
        ("switch $ { up }", "1: no macro without a name"),
        ("vm=/a", "1: vm is a keyword; give the macro another name"),
        ("a-b=/a", "1: 'a-b' cannot name a macro; use letters, digits and underscores"),
        ("a=", "1: the end of the file where a value belongs; write a="),
        ("a=up", '1: up where a value belongs; write a="…"'),
        ("a=b c", "1: c is too much here"),
        ("a=/b$c", "1: $ within the word /b$c; put the whole word in quotes"),
        ("vm a { disk '/b }", "1: a quoted string has no end; close it with '"),
        ('vm a { disk "/b\x00" }', "1: a control character in '/b\\x00'; leave it out"),
        ('vm a { disk "/b\u2028" }', "1: a control character"),
        ('vm a { disk "/b\ud800" }', "1: a control character"),
        ("vm a { disk /" + STRING_MAX * "a" + " }", "1: a word of 4096 characters"),
        ('vm a { disk "/' + STRING_MAX * "a" + '" }', "1: a string of 4096 characters"),
        ("x='\"a'\nvm a { disk $x }", "2: a quoted string has no end"),
    ],
)
def test_mistakes_of_text(text: str, says: str) -> None:
    """What cannot be read is told at its line; the rest of the line is passed over."""
    assert any(one.startswith(says) for one in mistakes(text))


def test_unused_macro() -> None:
    """A macro that nobody uses is warned of, as vmd does."""
    assert ["1: the macro a is not used; leave it out"] == warnings("a=1\n")
    assert [] == warnings("a=lan\nswitch $a { up }\n")


def test_include(tmp_path: Path) -> None:
    """Included statements stand where the include does; macros are common to all files."""
    (tmp_path / "one.conf").write_text("dir=/vm\nswitch $lan { up }\n")
    text = 'lan="lan"\ninclude "one.conf"\nvm a { disk $dir/a\n interface { switch lan } }'
    found = site(text, tmp_path / "vm.conf")
    assert (["lan"], "/vm/a") == (
        [one.fabric.name for one in found.switches],
        str(found.vms[0].vm.disks[0].path),
    )


def test_mistakes_in_included_files(tmp_path: Path) -> None:
    """Each mistake has its own file and line, in the order of reading."""
    (tmp_path / "one.conf").write_text("\nbogus\nvm a { cpus 0\n disk /a }\n")
    found = mistakes('cpus 2\ninclude "one.conf"\nlast', tmp_path / "vm.conf")
    assert ["1", f"{tmp_path}/one.conf:2", f"{tmp_path}/one.conf:3", "3"] == [
        one.split(": ")[0] for one in found
    ]


def test_include_is_closed_in_its_file(tmp_path: Path) -> None:
    """A section ends in the file in which it begins."""
    (tmp_path / "one.conf").write_text("vm a {\n disk /a\n")
    assert [f"{tmp_path}/one.conf:1: this {{ is never closed; write }} where it ends"] == mistakes(
        'include "one.conf"\nswitch lan { up }\n', tmp_path / "vm.conf"
    )


def test_missing_include(tmp_path: Path) -> None:
    """A file that is not there, a folder and a FIFO are refused, none is waited for."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "latin.conf").write_bytes(b"# \xe9\n")
    text = "".join(f'include "{name}"\n' for name in ("none", ".", "fifo", "latin.conf", "a" * 300))
    said = [one.partition(f"include {tmp_path}")[2] for one in mistakes(text, tmp_path / "vm.conf")]
    assert [
        "/none: No such file or directory; mend the path",
        ": not a file; mend the path",
        "/fifo: not a file; mend the path",
        "/latin.conf: not UTF-8 text; convert it",
        f"/{'a' * 300}: File name too long; mend the path",
    ] == said


def test_cyclic_include(tmp_path: Path) -> None:
    """A file that includes itself, by way of another or of a link, is refused."""
    main = tmp_path / "vm.conf"
    main.write_text('include "one.conf"\n')
    (tmp_path / "one.conf").write_text('include "link.conf"\n')
    (tmp_path / "link.conf").symlink_to(main)
    assert [
        f"{tmp_path}/one.conf:1: include {tmp_path}/link.conf: it includes itself; leave this out"
    ] == mistakes(main.read_text(), main)


def test_include_too_deep(tmp_path: Path) -> None:
    """Files within one another are bounded."""
    for number in range(DEPTH_MAX):
        (tmp_path / f"{number}.conf").write_text(f'include "{number + 1}.conf"\n')
    (found,) = mistakes((tmp_path / "0.conf").read_text(), tmp_path / "0.conf")
    assert f"{tmp_path}/{DEPTH_MAX - 1}.conf:1: include" in found
    assert "more than 16 files within one another" in found


def test_include_too_large(tmp_path: Path) -> None:
    """All files together are bounded, a file that is included again and again as well."""
    (tmp_path / "large.conf").write_text("#" * (TEXT_MAX // 4))
    (found,) = mistakes('include "large.conf"\n' * 20, tmp_path / "vm.conf")
    assert found.startswith(f"{tmp_path}/large.conf:1: more than {TEXT_MAX} characters in all")
    assert mistakes("#" * (TEXT_MAX + 1)) == [
        f"1: more than {TEXT_MAX} characters in all; write less"
    ]


def test_include_that_others_may_write(tmp_path: Path) -> None:
    """Whoever writes an included file chooses what is run: that is warned of."""
    (tmp_path / "one.conf").write_text("")
    (tmp_path / "one.conf").chmod(0o666)
    (found,) = warnings('include "one.conf"', tmp_path / "vm.conf")
    assert found.startswith(f"1: include {tmp_path}/one.conf: others may write it")
    (tmp_path / "one.conf").chmod(0o644)
    assert [] == warnings('include "one.conf"', tmp_path / "vm.conf")


def test_expansions_are_bounded() -> None:
    """Short text that stands for much text is refused."""
    found = mistakes(f'a="{"#" * 4000}"\n' + "$a\n" * 100)
    assert any("macros make more than" in one for one in found)


LARGE = TEXT_MAX // 4
SLOW = [  # on which a careless reader takes a very long time
    '"' + '\n\\"' * (TEXT_MAX // 3 - 1),
    "\\" * LARGE,
    "#\\\n" * (LARGE // 3),
    "a=1\n" * (LARGE // 4),
    "$a " * (LARGE // 3),
    "vm a { interface {" + " down" * (LARGE // 6),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", range(len(SLOW)))
def test_no_text_takes_long(number: int) -> None:
    """Large texts of the worst kinds are read, with a bounded number of mistakes."""
    try:
        read_vmconf(PATH, SLOW[number])
    except SiteError as error:
        assert 1 <= len(error.problems) <= MISTAKES_MAX + 2


WORDS = [
    *sorted(KEYWORDS),
    *["{", "}", "{\n", "}\n", "\n", "\n", ",", "=", "#", "$a", "$", "\\\n", '"', "'", " "],
    *["a", "b", "/a", '"b"', "1", "-1", "512M", "tap0", "eth0", "root", ":daemon", "100.64.0.0/10"],
    *["fd00::/48", "52:54:00:00:00:01", "qcow2", "a=1\n", "vm a {\n", "switch lan {\n"],
]


@given(
    st.one_of(st.text(max_size=200), st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
)
@example("vm a { interface switch lan, , down }")
@example("switch")
@example('x="\\"\nvm a { $x }')
@example("a=1\x1c$a")
def test_any_text_gives_a_site_or_mistakes(text: str) -> None:
    """No text is answered by anything else, and each answer is one line with a place."""
    try:
        said = read_vmconf(Path("/nowhere/vm.conf"), text).warnings
    except SiteError as error:
        said = error.problems
        assert said
    for one in said:
        assert one.startswith("/nowhere/vm.conf:")
        assert 1 == len(one.splitlines())


@given(st.lists(st.sampled_from([form for forms in FORMS.values() for form in forms]), max_size=6))
def test_forms_are_no_statements(forms: list[str]) -> None:
    """What people are shown is not a file; reading it ends in mistakes, not in a fault of ours."""
    try:
        read_vmconf(PATH, "\n".join(forms))
    except SiteError as error:
        assert error.problems


@given(st.binary(max_size=200))
def test_any_bytes_included(data: bytes) -> None:
    """An included file may hold anything."""
    with tempfile.TemporaryDirectory(prefix="vionet-") as name:
        folder = Path(name)
        (folder / "b.conf").write_bytes(data)
        try:
            read_vmconf(folder / "vm.conf", 'include "b.conf"\n')
        except SiteError as error:
            assert error.problems
