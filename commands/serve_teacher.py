"""Let others sample a teacher over HTTP: images go out, weights never do.  Needs fastapi and uvicorn.

`python cli.py sample --teacher http://HOST:PORT` on the other side gives the same bytes as sampling the teacher here.
Set RETORT_TEACHER_TOKEN (or give --token-file) on this side and RETORT_TEACHER_TOKEN on the other to let only those in
who know it; without a token only this machine is served.  The command runs until it is stopped (Ctrl+C).
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import click
from pydantic import Field

from commands.support.dry_run import work_begins
from commands.support.options import SharedOptions
from commands.support.workspace import artefact_digest, resolve_input
from runtime.errors import UserError
from runtime.safe_files import read_text

_TOKEN_BYTES = 4096  # no token is longer
_PACKAGES = ("fastapi", "uvicorn")


class Options(SharedOptions):
    """Flags of serve-teacher."""

    workers: int = Field(1, ge=1, description="Requests computed at the same time, one thread each.")
    teacher: str | None = Field(None, description="Folder of the teacher.")
    host: str = Field("127.0.0.1", description="Address to serve at; others than this machine's need a token.")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    max_batch: int = Field(4096, ge=1, le=1 << 20, description="Most images in one request.")
    token_file: Path | None = Field(None, description="File that holds the token, instead of RETORT_TEACHER_TOKEN.")


def run(options: Options) -> dict[str, Any]:
    """Serve until SIGINT or SIGTERM, then finish what is under way and leave."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serve-teacher needs {' and '.join(missing)}; run `pip install {' '.join(missing)}` first.")
    token = read_token(options.token_file)
    from teacher_sampler.remote.service import ServiceSettings, create_app, make_server
    from teacher_sampler.remote.transport import is_loopback

    if token is None and not is_loopback(options.host):
        raise UserError(
            f"--host {options.host} lets other machines in, and there is no token; set RETORT_TEACHER_TOKEN or give "
            f"--token-file, or serve at 127.0.0.1."
        )
    from commands.support.builders import load_generator
    from runtime.devices import pick_device, set_threads

    set_threads(1)
    device = pick_device(options.device)
    folder = resolve_input("teacher", options.teacher, options)
    digest = artefact_digest("teacher", folder)
    settings = ServiceSettings(options.max_batch, options.workers, token)
    app = create_app(load_generator(folder, device), digest, settings)
    with _bound(options.host, options.port) as listening:
        work_begins(options)
        server = make_server(app)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        _announce(_address(listening), digest, options.json_)
        server.run(sockets=[listening])
    raise click.exceptions.Exit(0)  # the result, the address, has been printed


def read_token(file: Path | None) -> str | None:
    """The token from the file, or from the environment; None where neither is given."""
    from teacher_sampler.remote.wire import TOKEN_VARIABLE, valid_token

    if file is None:
        token, source = os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
        if not token:
            return None
    else:
        source = f"--token-file {file}"
        try:
            token = read_text(file, "give a text file that holds the token", _TOKEN_BYTES).strip()
        except UserError as error:
            raise UserError(f"--token-file {error}") from error
    if not valid_token(token):
        raise UserError(f"{source} holds no token: one word of printable ASCII characters; make one and put it there.")
    return token


def _bound(host: str, port: int) -> socket.socket:
    from teacher_sampler.remote.service import listen

    try:
        return listen(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such address"
        raise UserError(
            f"--host {host} --port {port} cannot be served at ({reason}); give another port, or 0 for a free one."
        ) from error


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(address: str, digest: str, as_json: bool) -> None:
    announcement = {"address": address, "port": int(address.rsplit(":", 1)[1]), "digest": digest}
    click.echo(json.dumps(announcement) if as_json else f"serving teacher {digest[:8]} at {address} (Ctrl+C ends it)")


def needs(options: Options) -> dict[str, Any]:
    """What --dry-run says besides the options."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    return {"packages": f"missing: {', '.join(missing)}" if missing else "found", "disk": "none"}
