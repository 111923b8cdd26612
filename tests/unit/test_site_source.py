"""Which format a file has; the documentation of the TOML one."""

import re
from pathlib import Path

import pytest

from tests.tools import ROOT
from vionet.site.model import SiteError
from vionet.site.source import SOURCE_LEN_MAX, read_site, site_name
from vionet.site.toml import KEYS

PAGE = (ROOT / "docs" / "vionet.toml.md").read_text()
TOML = '[vm.web]\ndisk = {size = "1G"}\n'
VMCONF = 'vm "web" {\n\tmemory 1G\n\tboot "/bsd"\n}\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.toml", TOML), ("a.conf", VMCONF), ("a", TOML), ("a", VMCONF), ("a", "# x\n" + VMCONF)],
)
def test_format_is_seen(tmp_path: Path, name: str, text: str) -> None:
    """By the file's name, or else by what is in it."""
    path = tmp_path / name
    path.write_text(text)
    site = read_site(path)
    assert ("a", ["web"]) == (site.name, [entry.vm.name for entry in site.vms])


def test_name_says_the_format(tmp_path: Path) -> None:
    """A name that says TOML means it."""
    path = tmp_path / "a.toml"
    path.write_text(VMCONF)
    with pytest.raises(SiteError, match=r"^\S*a\.toml:1: not TOML: "):
        read_site(path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/etc/vionet.toml", "vionet"),
        ("vm.conf", "vm"),
        ("a b.ü.toml", "a-b.-"),
        (".hidden", "hidden"),
        ("---.toml", "site"),
        ("x" * 40, "x" * 32),
    ],
)
def test_site_is_called_after_its_file(path: str, name: str) -> None:
    """The stem, as far as it can be a name."""
    assert name == site_name(Path(path))


def test_site_has_the_name_that_it_gives_itself(tmp_path: Path) -> None:
    """`name` goes before the file's."""
    path = tmp_path / "a.toml"
    path.write_text('name = "office"')
    assert "office" == read_site(path).name


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a = 1\nb = '\xff'\n", "2: not UTF-8; write the file in UTF-8"),
        (b"#" * (SOURCE_LEN_MAX + 1), "1: more than 1 MiB; is it the right file?"),
    ],
    ids=["bytes", "size"],
)
def test_what_is_no_text(tmp_path: Path, data: bytes, says: str) -> None:
    """Bytes that are no text, or too many, are refused before anything else."""
    path = tmp_path / "a.toml"
    path.write_bytes(data)
    with pytest.raises(SiteError) as caught:
        read_site(path)
    assert (f"{path}:{says}",) == caught.value.problems


def documented() -> dict[str, set[str]]:
    """The keys that the page has, by the table they are in."""
    sections = {
        **{"Top level": "", "[switch.NAME]": "switch.NAME", "[vm.NAME]": "vm.NAME"},
        **{"Disks": "vm.NAME.disk", "Seed": "vm.NAME.seed", "[local]": "local"},
        **{"[[vm.NAME.interface]]": "vm.NAME.interface", "[port.NAME]": "port.NAME"},
    }
    found = {}
    for part in re.split(r"^#+ ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        if title in sections:
            keys = set(re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE))
            listed = re.search(r"options of a port.*?: (.*?)\.\s", body, re.DOTALL)
            keys |= set(re.findall(r"`(\w+)`", listed[1] if listed else ""))
            found[sections[title]] = keys
    return found


def test_page_has_every_key_and_no_other() -> None:
    """What the reader knows is what the page says."""
    assert {table: set(keys) for table, keys in KEYS.items()} == documented()


def blocks(kind: str) -> list[str]:
    """The page's blocks of a language."""
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_examples_are_read(tmp_path: Path) -> None:
    """The page's files are sites, without a warning once the files that they name are there."""
    small, full = blocks("toml")
    for name in ("debian.qcow2", "web.qcow2", "vmlinuz", "initrd.img", "debian.iso"):
        (tmp_path / name).touch()
    sites = []
    for text in (small, full):
        path = tmp_path / "vionet.toml"
        path.write_text(text)
        sites.append(read_site(path))
        assert () == sites[-1].warnings
    assert [("vionet", 1), ("office", 4)] == [(site.name, len(site.vms)) for site in sites]


def test_mistakes_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistakes that the page shows are what such a file gives."""
    monkeypatch.chdir(tmp_path)
    text = '[vm.web]\nmemroy = "1G"\nkernel = "k"\n[switch.lan]\n'
    text += '[[vm.web.interface]]\nswitch = "lam"\n'
    Path("vionet.toml").write_text(text)
    with pytest.raises(SiteError) as caught:
        read_site(Path("vionet.toml"))
    shown = PAGE.partition("<!-- mistakes -->\n```\n")[2].partition("```")[0]
    assert shown.splitlines() == list(caught.value.problems)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["empty.toml", "empty.conf", "empty"])
def test_nothing_but_blank_lines(tmp_path: Path, name: str) -> None:
    """They are read at once, whichever format they are in."""
    file = tmp_path / name
    file.write_text(" \n" * 60_000)
    assert () == read_site(file).vms
