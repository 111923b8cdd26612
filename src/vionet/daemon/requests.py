"""Several fabrics behind one control socket: which of them a request means.

How it works: `status` shows all of them.  A request that names a port goes to the fabric that has
it, or to the one that the request names; `add` without a name needs a switch that is the only one.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from vionet.config.option import suggest
from vionet.daemon.control import Answer, Reply, RequestError, Requests
from vionet.daemon.live import Live
from vionet.daemon.status import status_document

Lives = Callable[[], Mapping[str, Live]]


def fabric_requests(lives: Lives, of_switches: Callable[[], list[str]]) -> Requests:
    """What may be asked of the fabrics that run at that moment; `of_switches` are their names."""

    def status(request: Mapping[str, Any], peer: Any) -> Answer:
        documents = [(live.running.config, live.plugs) for live in lives().values()]
        return {"status": status_document(documents)}

    def passed(name: str, find: Callable[[Mapping[str, Any]], Live]) -> Any:
        def ask(request: Mapping[str, Any], peer: Any) -> Reply | Awaitable[Reply]:
            return find(request).running.requests[name](request, peer)

        return ask

    def having(request: Mapping[str, Any]) -> Live:
        named, port = request.get("fabric"), request.get("port")
        if named is not None:
            return _named(lives(), named)
        known = {one: live for live in lives().values() for one in live.plugs.live}
        if not isinstance(port, str) or port not in known:
            raise RequestError(f"{port}: no such port; {suggest(str(port), known)}")
        return known[port]

    def growing(request: Mapping[str, Any]) -> Live:
        named, switches = request.get("fabric"), of_switches()
        if named is None and len(switches) != 1:
            raise RequestError(f"{len(switches)} switches run; say which: {', '.join(switches)}")
        return _named(lives(), switches[0] if named is None else named)

    return {
        "status": status,
        "set": passed("set", having),
        "capture": passed("capture", having),
        "add": passed("add", growing),
        "remove": passed("remove", having),
    }


def _named(lives: Mapping[str, Live], name: object) -> Live:
    if not isinstance(name, str) or name not in lives:
        raise RequestError(f"{name}: no such fabric; {suggest(str(name), lives)}")
    return lives[name]
