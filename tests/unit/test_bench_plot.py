"""The pictures of the benches: every figure in them, at its length, and nothing else."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from tests.results import TESTPMD, WIRE, peers
from vionet.bench import plot
from vionet.bench.goals import GOALS, Verdict
from vionet.bench.result import Result

SVG = "{http://www.w3.org/2000/svg}"


def panels(path: Path) -> list[Xml.Element]:
    """The panels of a picture."""
    root = Xml.parse(path).getroot()
    assert f"{SVG}svg" == root.tag
    return root.findall(f"{SVG}svg")


def words_of(panel: Xml.Element) -> list[str]:
    """All text in a panel."""
    return [text.text or "" for text in panel.iter(f"{SVG}text")]


def bars(panel: Xml.Element) -> list[float]:
    """The lengths of the bars, in drawing order."""
    rects = [r for r in panel.iter(f"{SVG}rect") if "reactive" in (r.get("class") or "").split()]
    return [float(r.get("width", 0)) for r in rects if "tooltip-trigger" in r.get("class", "")]


def test_plot_shows_every_figure(tmp_path: Path) -> None:
    """A panel a unit; title, axis, legend, and a bar with its number for each figure."""
    result = peers()
    result.figures.append(replace(WIRE, unit="Gbit/s", values=(6.7,)))
    plot.draw(result, tmp_path / "a.svg")
    frames, gbit = panels(tmp_path / "a.svg")
    assert {
        "vionet bench peers: 64 B, M frames/s", "M frames/s", "testpmd", "vionet wire",
        "vionet switch", "both ways", "13.1", "8.10",
    } <= set(words_of(frames))  # fmt: skip
    assert {"Gbit/s", "6.70"} <= set(words_of(gbit))
    assert (3, 1) == (len(bars(frames)), len(bars(gbit)))
    testpmd, switch, wire = sorted(bars(frames))
    assert wire == switch
    assert pytest.approx(8.1 / 13.1, rel=0.01) == testpmd / wire


def test_plot_says_when_its_scale_is_logarithmic(tmp_path: Path) -> None:
    """Sizes far apart are all visible, and the axis says by what means."""
    sizes = [replace(TESTPMD, name=f"{i}", values=(10.0**i,)) for i in range(-2, 3)]
    plot.draw(Result("x", sizes), tmp_path / "a.svg")
    (panel,) = panels(tmp_path / "a.svg")
    assert "M frames/s, logarithmic scale" in words_of(panel)
    assert {"0.01", "0.1", "1", "10"} <= set(words_of(panel))
    assert 20 < min(bars(panel))


def test_plot_has_a_panel_for_cases_that_belong_together(tmp_path: Path) -> None:
    """`64 B: plain` and `1500 B: plain` are in two panels; bars below 0 reach to the left.

    There is no panel of zeros only.
    """
    names = {"64 B: plain": 9.0, "64 B: odd: filled": 12.0, "1500 B: plain": -2.0, "pop": 3.0}
    names["none: copied"] = 0.0
    figures = [replace(TESTPMD, name=name, unit="ns", values=(v,)) for name, v in names.items()]
    plot.draw(Result("x", figures), tmp_path / "a.svg")
    small, large, other = panels(tmp_path / "a.svg")
    assert {"vionet bench x: 64 B, ns, testpmd", "plain", "odd: filled"} <= set(words_of(small))
    assert {"vionet bench x: 1500 B, ns, testpmd", "-2.00"} <= set(words_of(large))
    assert {"vionet bench x: ns, testpmd", "pop"} <= set(words_of(other))
    assert all(length > 50 for panel in (small, large, other) for length in bars(panel))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("64 B both ways", ("64 B", "both ways")),
        ("64 KB GSO both, split", ("64 KB GSO", "both, split")),
        ("1500 B, cached: passed on", ("1500 B, cached", "passed on")),
        ("2 ports", ("", "2 ports")),
        ("64 B", ("", "64 B")),
    ],
)
def test_sizes_are_apart(name: str, parts: tuple[str, str]) -> None:
    """Frames of different sizes share no scale, nor do cases that a colon sets apart."""
    assert parts == plot._parts(name)


def test_plot_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    """Nothing but figures is in a picture: no date, no random name, no script."""
    for name in "ab":
        plot.draw(peers(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert b"<script" not in (tmp_path / "a").read_bytes()


def test_goals_are_drawn_as_multiples(tmp_path: Path) -> None:
    """1 is the goal, from above as from below; what was not measured is not drawn."""
    met = Verdict("wake", GOALS["wake"], 0.75, True)
    missed = Verdict("ovs-1500", GOALS["ovs-1500"], 2.0, False)
    none = Verdict("tap-copies", GOALS["tap-copies"], 0.0, True)
    assert (2.0, 0.5, 1.0) == tuple(map(plot.reached, (met, missed, none)))
    assert 3.0 == plot.reached(met._replace(measured=0.01))
    plot.draw_goals([met, missed, met._replace(met=None, measured=None)], tmp_path / "a.svg")
    (panel,) = panels(tmp_path / "a.svg")
    assert {"met", "missed", "wake: 0.750, goal ≤ 1.5"} <= set(words_of(panel))
    lengths = [length for length in bars(panel) if length]
    assert pytest.approx(4.0, rel=0.01) == max(lengths) / min(lengths)


@pytest.mark.parametrize(
    ("least", "most", "logarithmic", "labels"),
    [
        (0, 3.0, False, ["0", "0.5", "1", "1.5", "2", "2.5", "3"]),
        (0, 14.3, False, ["0", "2", "4", "6", "8", "10", "12", "14"]),
        (0, 0.09, False, ["0", "0.02", "0.04", "0.06", "0.08"]),
        (0.1, 8, True, ["0.1", "0.2", "0.5", "1", "2", "5"]),
        (0.01, 200, True, ["0.01", "0.1", "1", "10", "100"]),
    ],
)
def test_axis_has_round_numbers(
    least: float, most: float, logarithmic: bool, labels: list[str]
) -> None:
    """At most about eight lines, at round numbers, from one end to the other."""
    assert labels == [m["label"] for m in plot.marks(least, most, logarithmic=logarithmic)]
