"""docs/vm.conf.md says what the reader of vm.conf does."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tools import ROOT
from tests.vmconf import site
from vionet.site.toml import read_toml
from vionet.site.vmconf_grammar import DEPTH_MAX, FORMS, KEYWORDS
from vionet.site.vmconf_lexer import STRING_MAX, TEXT_MAX

DOC = (ROOT / "docs" / "vm.conf.md").read_text()
HEADINGS = {
    "file": "In the file",
    "agentx": "In the file",
    "switch": "In switch",
    "vm": "In vm",
    "interface": "In interface",
    "allow": "Instances",
}


def example(language: str) -> str:
    """The whole example, in one of the two formats."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
    return str(found)


def section(heading: str) -> str:
    """What stands below a heading, up to the next of its kind."""
    return DOC.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("block", FORMS)
def test_every_form_is_described_where_it_belongs(block: str) -> None:
    """Each statement of the grammar has its row, and each row is a statement of the grammar."""
    text = section(HEADINGS[block])
    if block == "agentx":
        assert set(FORMS[block]) <= set(re.findall(r"`([^`]*)`", text))
        return
    rows = re.findall(r"^\| `((?:[^`])*)` \|", text, re.MULTILINE)
    assert sorted(FORMS[block]) == sorted(row.replace(r"\|", "|") for row in rows)


def test_every_keyword_is_named() -> None:
    """A keyword that the page does not have would surprise whoever uses it as a name."""
    named = set(re.findall(r"[a-z0-9]+", " ".join(re.findall(r"`([^`\n]*)`", DOC))))
    assert set() == KEYWORDS - named


def test_limits_are_as_written() -> None:
    """The page's numbers are the code's."""
    assert f"up to {TEXT_MAX >> 10} KiB" in DOC
    assert f"up to {STRING_MAX} bytes" in DOC
    assert f"Up to {DEPTH_MAX} may include one another" in DOC


def test_example_is_the_same_in_both_formats() -> None:
    """The two formats are ways to write one model."""
    ours = site(example("conf"), Path("/etc/site.conf"))
    other = read_toml(Path("/etc/site.toml"), example("toml"))
    assert ours.vms == other.vms
    assert replace(other, warnings=()) == replace(ours, warnings=())


def test_example_is_warned_of_its_files_only() -> None:
    """The example uses nothing that has no meaning here."""
    said = site(example("conf"), Path("/etc/site.conf")).warnings
    assert 4 == len(said)
    assert all("there is no such file" in one for one in said)
