"""Serving the page: a private temporary folder, a free port, a clean end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from speechcwcl.apps.demo.ask import Limits
from speechcwcl.errors import UserError

if TYPE_CHECKING:
    from speechcwcl.apps.demo.answer import Judge

_SWEEP_EVERY = 20.0  # seconds between two looks at the temporary folder
_LEFT_OVER = 60.0  # seconds after which an upload is deleted; its name is that of its content,
# so that a request must not delete what another one with the same recording still needs
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


def check_port(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before a model is loaded."""
    if not 0 < port < 65536:
        raise UserError(f"--port {port}: give a number from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise UserError(f"--host {host}: no such host; try 127.0.0.1") from error
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error


def import_page(temporary: Path) -> ModuleType:
    """Import the page, and with it gradio, which reads its settings from the environment."""
    os.environ["GRADIO_TEMP_DIR"] = str(temporary)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    for name in ("no_proxy", "NO_PROXY"):  # gradio asks itself whether it is up
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    try:
        from speechcwcl.apps.demo import page
    except ImportError as error:
        if (error.name or "").split(".")[0] == "speechcwcl":
            raise
        missing = isinstance(error, ModuleNotFoundError) and error.name == "gradio"
        why = "" if missing else f" ({error})"
        raise UserError(f"the page needs gradio{why}: pip install speechcwcl[web]") from error
    return page


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder that only this user can read, gone afterwards with all that is in it.

    SIGTERM then ends the program in order, so that the folder goes in that case too.
    """
    before = signal.signal(signal.SIGTERM, _leave)
    folder = Path(tempfile.mkdtemp(prefix="speechcwcl-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def sweep(folder: Path, older_than: float = _LEFT_OVER) -> None:
    """Delete uploads, and empty folders."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        with contextlib.suppress(OSError):  # in use, not empty, or gone meanwhile
            if time.time() - path.lstat().st_mtime >= older_than:
                path.rmdir() if path.is_dir() else path.unlink()


class _LocalOnly:
    """ASGI middleware: tells browsers to load nothing from anywhere else."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", _POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        await self.app(scope, receive, send_with_policy if scope["type"] == "http" else send)


def serve(
    judges: Sequence[Judge],
    limits: Limits,
    *,
    page: ModuleType,
    folder: Path,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    far: float = 0.0,
) -> None:
    """Show the page until Ctrl-C or SIGTERM."""
    from starlette.middleware import Middleware

    blocks = page.build(judges, limits, far)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        _, address, public = blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=limits.bytes,
            app_kwargs={"middleware": [Middleware(_LocalOnly)]},
            footer_links=["api"],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            theme=page.theme(),
        )
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error}") from error
    try:
        sweep(folder, 0)  # gradio makes a folder of its own in it, for a mode that is not used
        print(f"The page is at {public or address} (Ctrl-C ends it).", flush=True)
        while not stop.wait(_SWEEP_EVERY):
            sweep(folder)
    finally:
        blocks.close(verbose=False)
