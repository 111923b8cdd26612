"""Every command in the documentation is run."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.process import Children
from tests.snippet import Snippet, documents, snippets
from tests.tools import ROOT, need, need_guest_kernel, need_root, packages

NOT_RUN = {
    "this is what runs the tests",
    "needs a hypervisor that Debian does not have",
    "needs an init system that is systemd",
    "it measures for an hour",
}
LINK = re.compile(r"\[[^\]]*\]\(([^)#:\s]+)(#[^)]*)?\)")


def files() -> list[Path]:
    """Documents that have commands to run."""
    return [path for path in documents() if any(s.place for s in snippets(path))]


def need_what_it_uses(snippet: Snippet) -> None:
    """Skip the document, by name, where a program of this command or of its stand-in is missing."""
    texts = [snippet.script]
    folder = ROOT / "tests" / "snippets"
    if (folder / snippet.place).is_dir():
        texts += [path.read_text() for path in (folder / snippet.place).iterdir()]
    if any("guest-files" in text for text in texts):
        texts.append((folder / "guest-files").read_text())
        need_guest_kernel()
    if any("unshare --net sh" in text for text in texts):
        need_root()
    words = {word for text in texts for word in re.findall(r"[\w.-]+", text)}
    for tool in sorted(words & packages().keys()):
        need(tool)


def bash(snippet: Snippet, run_dir: Path) -> tuple[list[str], dict[str, str], Path]:
    """How to run a snippet: arguments, environment, folder."""
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if snippet.place not in ("shell", "checkout"):
        place = ROOT / "tests" / "snippets" / snippet.place
        assert place.is_dir(), f"{snippet.name}: {place} does not exist"
        folders.insert(0, str(place))
    script = run_dir / f"line-{snippet.line}.sh"
    script.write_text(("exec " if snippet.serves else "") + snippet.script)
    env = {"PATH": ":".join(folders), "XDG_RUNTIME_DIR": str(run_dir)}
    folder = ROOT if snippet.place == "checkout" else run_dir
    return ["bash", "-euo", "pipefail", str(script)], env, folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_work(path: Path, run_dir: Path, start: Children) -> None:
    """The commands of a document, pasted in order, do what a reader expects of them."""
    wanted = [snippet for snippet in snippets(path) if snippet.place]
    for snippet in wanted:
        need_what_it_uses(snippet)
    serving = []
    for snippet in wanted:
        argv, env, folder = bash(snippet, run_dir)
        child = start(*argv, env=env, cwd=folder)
        if snippet.serves:
            child.wait_for(r"^ready$", timeout=120)
            serving.append((snippet, child))
        else:
            child.close_input()
            assert child.wait(timeout=300) == 0, f"{snippet.name}: {child}"
    for snippet, child in reversed(serving):
        assert child.stop(timeout=30) == 0, f"{snippet.name}: {child}"


def test_commands_that_are_not_run_have_a_reason() -> None:
    """A block is left out only for a reason from the list."""
    left_out = {s.name: s.reason for path in documents() for s in snippets(path) if s.reason}
    assert set(left_out.values()) <= NOT_RUN, left_out


def test_links_lead_somewhere() -> None:
    """Links between documents name files that exist."""
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in documents()
        for target, _ in LINK.findall(path.read_text())
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_document_without_comment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of commands cannot be added without saying how it is tested."""
    from tests import snippet as module

    monkeypatch.setattr(module, "ROOT", tmp_path)
    document = tmp_path / "page.md"
    marked = "<!-- run: shell, serves -->\n```console\n$ echo a\na\n```\n"
    document.write_text(marked + "\n```sh\nb\n```\n")
    with pytest.raises(module.SnippetError, match=r"page.md:7: write"):
        snippets(document)
    document.write_text(marked)
    (snippet,) = snippets(document)
    assert ("echo a\n", "shell", True) == (snippet.script, snippet.place, snippet.serves)
