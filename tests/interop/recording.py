"""A page whose terminals are played, not typed: what the page says is typed, the rest must come.

How it works: above each recorded block of a page stands

    <!-- recorded: TERMINAL -->               its last command has ended
    <!-- recorded: TERMINAL, until LINE -->   its last command goes on, and has said this line
    <!-- recorded: TERMINAL, connected -->    its last command goes on, and is connected

In a block, lines that begin with a prompt are typed; so are `^C`, and a guest's prompt with nothing
behind it, which is Ctrl-], the key that leaves a console.  `play` types them into the terminals, in
the page's order, and gives the page as it should be, but for what changes from run to run (`same`).
"""

import re
from collections.abc import Callable, Mapping

from tests.interop.terminal import Terminal

RECORDED = re.compile(
    r"(?P<head><!-- recorded: (?P<terminal>\d)(?:, (?P<until>[^>]+))? -->\n```console\n)"
    r"(?P<text>.*?)(?P<tail>```\n)",
    re.DOTALL,
)
TYPED = re.compile(r"(?P<prompt>\$|>|[\w-]+#)(?: (?P<keys>.*))?|\^C.*")
COUNTED = re.compile(r"^port +sent +received ")
LOGGED = re.compile(r"^(\^C)?\d{4}-\d\d-\d\dT[\d:.]+Z ")
DROPPED = re.compile(LOGGED.pattern + r"\[\w+ *\] frames dropped ")
VARYING = (
    (re.compile(r"^(SeaBIOS|BusyBox|Booting from) .*"), r"\1"),
    (re.compile(r" \d+[smh] "), " SPAN "),
    (re.compile(r"dropped \d+ "), "dropped N "),
    (re.compile(r" pid=\d+"), " pid=N"),
    (re.compile(r" +"), " "),
)
SUM = re.compile(r"\b[0-9a-f]{32}\b")
LEAVE, INTERRUPT = "\x1d", "\x03"  # Ctrl-], Ctrl-C
WAIT_S = 100
READY_S = 250  # where the engine has to be compiled


def same(page: str) -> list[str]:
    """The lines of a page without what differs between two sessions that went the same way.

    Those are times, spans, versions of other people's programs, and counts that are not 0.  Lines
    of the log have no order, because several programs act at once, and it does not matter how often
    they come; whether frames are dropped is a matter of time.  Of a sum it matters only which
    others it equals.
    """
    sums: dict[str, str] = {}
    lines: list[str] = []
    logged: set[str] = set()
    counted = False
    for line in page.splitlines():
        counted = bool(line) and (counted or bool(COUNTED.match(line)))
        if counted:
            line = re.sub(r" [1-9][\d.]*[kMG]?(?= |$)", " N", line)
        for expression, instead in VARYING:
            line = expression.sub(instead, line)
        line = SUM.sub(lambda found: sums.setdefault(found[0], f"SUM{len(sums)}"), line)
        if LOGGED.match(line):
            if not DROPPED.match(line):
                logged.add(LOGGED.sub(r"\1", line))
        elif line:
            lines.append(line)
    return [*lines, *sorted(logged)]


def keys_of(typed: re.Match[str]) -> str:
    """What is pressed for a line."""
    if not typed["prompt"]:
        return INTERRUPT
    return f"{typed['keys']}\n" if typed["keys"] else LEAVE


def play(page: str, terminals: Mapping[str, Terminal], connected: Callable[[], None]) -> str:
    """The page with what the terminals have shown; `connected` waits for that."""

    def played(block: re.Match[str]) -> str:
        lines, terminal = block["text"].splitlines(), terminals[block["terminal"]]
        for typed in filter(None, map(TYPED.fullmatch, lines)):
            if typed["prompt"]:
                terminal.await_prompt(typed["prompt"], WAIT_S)
            terminal.type(keys_of(typed))
        what, _, line = (block["until"] or "").partition(" ")
        if what == "until":
            terminal.await_line(line, READY_S)
        elif what == "connected":
            terminal.await_line(lines[-1], WAIT_S)
            connected()
        else:
            terminal.await_prompt("$", WAIT_S)
        return "\n".join([block["head"].rstrip(), *terminal.take(), block["tail"]])

    return RECORDED.sub(played, page)
