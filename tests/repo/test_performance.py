"""docs/performance.md shows the newest results, and its pictures are there."""

import json
import re

from tests.tools import ROOT
from vionet.bench import page, suite


def test_page_shows_the_newest_results() -> None:
    """The measured parts of the page are the newest document's, or say that there is none."""
    newest = suite.Place(ROOT / "bench" / "results", ROOT / "docs").newest()
    document = json.loads(newest.read_text()) if newest else {"benches": {}}
    text = (ROOT / "docs" / "performance.md").read_text()
    assert ["machine", "goals", "figures"] == re.findall(r"<!-- measured: (\w+) -->", text)
    assert page.render(text, document) == text, "vionet bench all --render writes it anew"
