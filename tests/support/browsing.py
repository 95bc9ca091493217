"""The portal on a free port, and a browser that is signed in to it."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from playwright.sync_api import BrowserContext, sync_playwright

from portal import sessions
from tests.support.chromium import FLAGS

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
START_S = 30.0


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application on loopback; its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    deadline = time.monotonic() + START_S
    while not server.started:
        if time.monotonic() > deadline:
            raise TimeoutError("the portal did not start")
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10.0)


@contextmanager
def browser(address: str, secret: str, **options: Any) -> Iterator[BrowserContext]:
    """Chromium with somebody's session."""
    program = shutil.which("chromium")
    if program is None:
        raise RuntimeError("chromium is not installed: `make setup-test`")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        context = chromium.new_context(**options)
        context.add_cookies([{"name": sessions.SESSION, "value": secret, "url": address}])
        try:
            yield context
        finally:
            context.close()
            chromium.close()
