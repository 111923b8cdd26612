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


def asked(control: Path | None, fabric: str | None) -> Path | None:
    """The control socket that the options say; None where it has to be found."""
    return control or (runtime_folder() / f"{fabric}{SUFFIX}" if fabric else None)


def _running() -> Iterator[tuple[Path, dict[str, Any]]]:
    """The control sockets that answer, and the fabrics of each."""
    for path in control_sockets():
        try:
            for fabric in ask_status(path)["fabrics"]:
                yield path, fabric
        except ControlError as error:
            if not error.stale:
                raise


def fabric_with(port: str) -> Path:
    """The control socket of the only fabric that has a port of that name."""
    found = {
        fabric["name"]: path
        for path, fabric in _running()
        if any(one["name"] == port for one in fabric["ports"])
    }
    if not found:
        problem = f"no fabric in {runtime_folder()} has such a port"
        raise Failure(f"{port}: {problem}; `vionet status` shows what runs, or give --control")
    if len(found) > 1:
        raise Failure(f"{port}: a port of {' and '.join(found)}; say which by --fabric")
    return next(iter(found.values()))


def only_fabric() -> Path:
    """The control socket of the only fabric."""
    found = {fabric["name"]: path for path, fabric in _running()}
    if not found:
        raise Failure(f"no fabric runs in {runtime_folder()}; start one, or give --control")
    if len(found) > 1:
        raise Failure(f"{' and '.join(found)} run; say which by --fabric")
    return next(iter(found.values()))


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
        found = {}
        for path in sorted(folder.glob(f"{site or '*'}{SUFFIX}")):
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
