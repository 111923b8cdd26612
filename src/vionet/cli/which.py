"""Which of the fabrics and sites that run a command means.

Every one has a control socket in the runtime folder of whoever runs it, which says what it is.
Fabrics are sought in the user's own folder; sites there first, and where none runs among root's in
/run/vionet, because machines can belong to users who do not run vionet.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from vionet.cli.group import Failure
from vionet.daemon.control import Answer, ControlError, RequestError, ask, ask_status
from vionet.daemon.place import SUFFIX, control_sockets, runtime_folder
from vionet.vhost_user.listener import SocketError

SYSTEM_FOLDER: Final = Path("/run/vionet")


def fabric_of(
    control: Path | None, fabric: str | None, port: str | None = None
) -> tuple[Path, dict[str, str]]:
    """Where to ask about a port, or for one more, and the fabric's name for the request.

    It is the fabric that the options say, else the only one that has the port, else the only one.
    """
    named = {"fabric": fabric} if fabric else {}
    if control:
        return control, named
    found = [
        (path, one)
        for path, one in running()
        if fabric in (None, one["name"])
        and (fabric or port is None or any(known["name"] == port for known in one["ports"]))
    ]
    if fabric and not found:
        return runtime_folder() / f"{fabric}{SUFFIX}", named
    if not found and port is not None:
        problem = f"no fabric in {runtime_folder()} has such a port"
        raise Failure(f"{port}: {problem}; `vionet status` shows what runs, or give --control")
    if not found:
        raise Failure(f"no fabric runs in {runtime_folder()}; start one, or give --control")
    if len({path for path, _ in found}) > 1:
        names = " and ".join(one["name"] for _, one in found)
        what = f"{names} run" if port is None else f"{port}: a port of {names}"
        raise Failure(f"{what}; say which by --{'control' if fabric else 'fabric'}")
    return found[0][0], named


def running() -> Iterator[tuple[Path, dict[str, Any]]]:
    """The control sockets that answer, and the fabrics of each."""
    for path in control_sockets():
        try:
            for fabric in ask_status(path)["fabrics"]:
                yield path, fabric
        except ControlError as error:
            if not error.stale:
                raise


def _folders() -> list[Path]:
    own: list[Path] = []
    with suppress(SocketError):
        own.append(runtime_folder())
    return list(dict.fromkeys([*own, SYSTEM_FOLDER]))


def sites(control: Path | None, site: str | None) -> Mapping[Path, Answer]:
    """The sites that the options say, else those that run: what each answers to `vm.list`."""
    if control:
        return {control: _listed(control)}
    refused: list[str] = []
    for folder in _folders():
        found, paths = {}, []
        with suppress(OSError):  # another user's, as after `su`
            paths = sorted(folder.glob(f"{site or '*'}{SUFFIX}"))
        for path in paths:
            try:
                found[path] = ask(path, "vm.list")
            except RequestError:
                pass  # a fabric's
            except ControlError as error:
                refused += [] if error.stale else [str(error)]
        if found:
            return found
    if refused:
        raise Failure(refused[0])
    what, where = f"site {site}" if site else "site", " or ".join(map(str, _folders()))
    raise Failure(f"no {what} runs in {where}; start one by `vionet up FILE`, or give --control")


def site_of(control: Path | None, site: str | None, machine: str | None = None) -> Path:
    """The control socket of the only site, or of the only one that has this machine."""
    found = sites(control, site)
    having = {
        path: answer
        for path, answer in found.items()
        if len(found) == 1 or any(vm["name"] == machine for vm in answer["vms"])
    }
    if len(having) == 1:
        return next(iter(having))
    names = " and ".join(answer["site"] for answer in (having or found).values())
    raise Failure(f"{names} run; say which by --site")


def _listed(path: Path) -> Answer:
    try:
        return ask(path, "vm.list")
    except RequestError:
        raise Failure(f"{path}: no site but a fabric answers there; check the path") from None
    except ControlError as error:
        raise Failure(str(error)) from None
