"""`vionet web`: the live page."""

import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click

from vionet.cli.fabric import configure_log, log_options, say_ready
from vionet.cli.group import Failure
from vionet.daemon import endpoint
from vionet.daemon.endpoint import TcpListener
from vionet.daemon.foreground import RunError
from vionet.daemon.place import control_sockets, runtime_folder
from vionet.vhost_user.listener import SocketError

_TOKEN_LEN: Final = 16, 256
_WRITE: Final = "write 127.0.0.1:8080 or [::1]:8080"
_ELSEWHERE: Final = "listen on 127.0.0.1, and come by `ssh -L 8080:127.0.0.1:8080 HOST`"
_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


@click.command(context_settings=_SETTINGS)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:8080",
    show_default=True,
    help="A loopback address; port 0 is any that is free.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take the token from here, instead of a new one at each start.",
)
@click.option("--allow-capture", is_flag=True, help="Let the page start captures.")
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    help="Show the fabrics of this control socket; without it, all that can be found.",
)
@log_options
def web(
    listen: str,
    token_file: Path | None,
    allow_capture: bool,
    control: Path | None,
    **logging: Any,
) -> None:
    """Show in a browser what running fabrics do, live.

    Prints the page's address, with the token that opens it, and `ready`.  The page only shows,
    unless --allow-capture says otherwise.
    """
    if not (find_spec("starlette") and find_spec("uvicorn")):
        raise Failure("web: starlette and uvicorn are missing: pip install 'vionet[web]'")
    from vionet.web.app import Web
    from vionet.web.guard import Keys
    from vionet.web.serve import serve

    configure_log(**logging)
    try:
        if control is None:
            runtime_folder()  # or nothing would ever be found
        token = _token(token_file) if token_file else secrets.token_urlsafe(32)
        listener = _listener(listen)
        where = f"{listener.url}/" + ("" if token_file else f"#{token}")

        def made() -> Web:
            sockets = (lambda: [control]) if control else control_sockets
            return Web(Keys(token), sockets, allow_capture=allow_capture)

        def ready() -> None:
            click.echo(where)
            say_ready()

        serve(listener.socket, made, ready)
    except (RunError, SocketError) as error:
        raise Failure(str(error)) from None


def _listener(text: str) -> TcpListener:
    try:
        address = endpoint.parse(text, _WRITE, _ELSEWHERE)
    except ValueError as error:
        raise click.UsageError(f"--listen {error}") from None
    if address.path is not None:
        raise click.UsageError(f"--listen {text}: browsers want HOST:PORT, as 127.0.0.1:8080")
    return TcpListener(address.host, address.port)


def _token(path: Path) -> str:
    """What is in the file, if nobody else can read it."""
    least, most = _TOKEN_LEN
    try:
        if path.stat().st_mode & 0o077:
            raise RunError(f"{path}: others may read it: chmod 600 {path}")
        with path.open() as file:
            token = file.read(most + 2).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not least <= len(token) <= most or not (token.isascii() and token.isprintable()):
        raise RunError(f"{path}: a token has {least} to {most} characters of ASCII")
    return token
