"""Silent, dribbling and trickling connections take nobody's place; slow lines, long waits and streams are not cut (I7).

Real sockets against the server as `ai-node web` configures it, with limits shortened by its settings.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from dicom_node.metrics import METRICS
from dicom_node.tls import Identity, ServerSide, client_context
from portal.patience import Crowd
from portal.serving import Listen, configure
from tests.support.certificates import Site, new_site
from tests.support.listening import until

pytestmark = pytest.mark.component

PATIENCE_S = 1.2
BIG = 6_000_000


def make_app() -> FastAPI:
    app = FastAPI()
    app.state.lost = 0

    @app.post("/body")
    async def body(request: Request) -> Response:
        try:
            return PlainTextResponse(str(len(await request.body())))
        except Exception:
            app.state.lost += 1
            raise

    @app.get("/wait")
    async def wait() -> Response:
        await asyncio.sleep(3 * PATIENCE_S)
        return PlainTextResponse("late")

    @app.get("/events")
    async def events() -> Response:
        async def lines() -> AsyncIterator[bytes]:
            for _ in range(3):
                await asyncio.sleep(1.2 * PATIENCE_S)
                yield b"data: 1\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    @app.get("/big")
    async def big() -> Response:
        return PlainTextResponse(b"x" * BIG)

    return app


@contextmanager
def serving(app: FastAPI, keep_alive_s: int = 15, **limits: object) -> Iterator[int]:
    listen = Listen(port=0, **{"patience_s": PATIENCE_S, **limits})  # type: ignore[arg-type]
    config = configure(app, listen)
    config.timeout_keep_alive = keep_alive_s
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, 20, "the portal serves")
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = new_site(tmp_path_factory.mktemp("site"))
    made.issue("localhost", ["localhost", "127.0.0.1"], stem="node")
    return made


def side(site: Site) -> ServerSide:
    pem = Identity(site.folder / "node.pem", site.folder / "node.key", site.authority)
    return ServerSide(pem, is_mutual=False)


def called(port: int, receive_buffer: int = 0) -> socket.socket:
    made = socket.socket()
    if receive_buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    made.settimeout(20)
    made.connect(("127.0.0.1", port))
    return made


def is_cut(connection: socket.socket) -> bool:
    """Whether the other side has ended it, now."""
    connection.setblocking(False)
    try:
        return connection.recv(65536) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def asked(connection: socket.socket, request: bytes = b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n") -> tuple[int, bytes]:
    connection.sendall(request)
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


def cut(cause: str) -> float:
    line = f'ainode_http_connections_cut_total{{cause="{cause}"}} '
    found = [row for row in METRICS.render().decode().splitlines() if row.startswith(line)]
    return float(found[0].removeprefix(line)) if found else 0.0


def drip(connection: socket.socket, byte: bytes) -> Callable[[], bool]:
    """Brings a byte with each look; true once the connection was cut."""

    def look() -> bool:
        if is_cut(connection):
            return True
        try:
            connection.send(byte)
        except (BlockingIOError, ssl.SSLWantWriteError):
            return False
        except OSError:
            return True
        return False

    return look


@pytest.mark.parametrize(
    ("begin", "byte"),
    [
        (b"", b""),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"a"),
        (b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"a"),
        (b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        # answered 404 at once; what goes on trickling is no request
        (b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"a"),
        # between two requests
        (b"GET /none HTTP/1.1\r\nHost: x\r\n\r\nGET /x HTTP/1.1\r\nX-Slow: ", b"a"),
    ],
    ids=["silence", "header", "body", "chunks", "after-the-answer", "second-header"],
)
@pytest.mark.parametrize("by", ["plain", "tls"])
def test_whoever_dribbles_is_cut(site: Site, by: str, begin: bytes, byte: bytes) -> None:
    app = make_app()
    with serving(app, tls=side(site) if by == "tls" else None) as port, ExitStack() as opened:
        connection = opened.enter_context(called(port))
        if by == "tls":
            connection = opened.enter_context(
                client_context(site.authority).wrap_socket(connection, server_hostname="localhost")
            )
        begun, before = time.monotonic(), cut("timeout")
        if begin:
            connection.sendall(begin)
        until(drip(connection, byte), 20, "it is cut")
        assert time.monotonic() - begun > PATIENCE_S / 2
        assert cut("timeout") == before + 1
        if begin.startswith(b"POST /body"):
            until(lambda: app.state.lost == 1, 10, "the application was told")


def test_a_handshake_that_says_nothing_is_cut(site: Site) -> None:
    with serving(make_app(), tls=side(site)) as port, called(port) as silent, called(port) as half:
        half.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a Client Hello
        until(lambda: is_cut(silent) and is_cut(half), 20, "they are cut")


def test_a_slow_line_is_not_cut(site: Site) -> None:
    """A body that takes several times the patience, with a silence below it; an answer fetched as slowly, over HTTPS.

    While she fetches it she is not idle: the connection is kept for her next request.
    """
    patience_s, pieces = 2.0, 5
    with (
        serving(make_app(), keep_alive_s=3, tls=side(site), patience_s=patience_s) as port,
        called(port, receive_buffer=4096) as raw,
        client_context(site.authority).wrap_socket(raw, server_hostname="localhost") as line,
    ):
        line.sendall(f"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: {2000 * pieces}\r\n\r\n".encode())
        begun = time.monotonic()
        for number in range(pieces):
            # the length of these silences is what is tested
            time.sleep((0.65 if number == 3 else 0.35) * patience_s)
            line.sendall(b"x" * 2000)
        assert time.monotonic() - begun > 2 * patience_s
        assert asked(line, b"") == (200, b"10000")
        line.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        got, begun = 0, time.monotonic()
        answer = http.client.HTTPResponse(line)
        answer.begin()
        while piece := answer.read(16384):
            got += len(piece)
            if time.monotonic() - begun < 2.2 * patience_s:
                time.sleep(0.05)
        assert got == BIG and time.monotonic() - begun > 2 * patience_s
        assert asked(line)[0] == 404


def test_whoever_does_not_read_her_answer_is_cut() -> None:
    with serving(make_app()) as port, called(port, receive_buffer=4096) as deaf:
        before = cut("timeout")
        deaf.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: cut("timeout") == before + 1, 20, "it is cut")


@pytest.mark.parametrize("path", ["/wait", "/events"])
def test_whoever_waits_for_the_node_is_not_cut(path: str) -> None:
    with serving(make_app()) as port, called(port) as patient:
        patient.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        got = b""
        while piece := patient.recv(65536):
            got += piece
        assert got.startswith(b"HTTP/1.1 200") and (b"late" in got or got.count(b"data: 1") == 3)


@pytest.mark.parametrize("by", ["plain", "tls"])
def test_silent_connections_give_way_to_a_newcomer(site: Site, by: str) -> None:
    chosen = side(site) if by == "tls" else None
    with serving(make_app(), patience_s=60.0, max_connections=8, tls=chosen) as port, ExitStack() as opened:
        silent = [opened.enter_context(called(port)) for _ in range(12)]
        until(lambda: sum(is_cut(one) for one in silent) == 4, 20, "the first four gave way")
        assert [is_cut(one) for one in silent] == [True] * 4 + [False] * 8
        mine = opened.enter_context(called(port))
        if by == "tls":
            mine = opened.enter_context(client_context(site.authority).wrap_socket(mine, server_hostname="localhost"))
        assert asked(mine)[0] == 404
        assert is_cut(silent[4])


def test_where_all_are_busy_the_newcomer_is_told() -> None:
    with serving(make_app(), patience_s=60.0, max_connections=3) as port, ExitStack() as opened:
        busy = [opened.enter_context(called(port)) for _ in range(3)]
        for one in busy:
            one.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            assert one.recv(1000).startswith(b"HTTP/1.1 100")  # so the node is at it
        assert asked(opened.enter_context(called(port)))[0] == 503
        for one in busy:
            assert asked(one, b"abcde") == (200, b"5"), "nobody who was there paid for it"
        assert asked(opened.enter_context(called(port)))[0] == 404


class Somebody:
    """A connection of which only the counting is tested."""

    def __init__(self, since: float | None) -> None:
        self.waits_since = since
        self.is_out = False

    def give_way(self) -> None:
        self.is_out = True


def test_an_address_has_its_share_and_pays_for_itself() -> None:
    crowd = Crowd(most=100, most_per_address=2, proxies=["198.51.100.1"])
    first, second, elsewhere = Somebody(1.0), Somebody(2.0), Somebody(0.0)
    assert crowd.enter(elsewhere, "192.0.2.9")
    assert crowd.enter(first, "2001:db8::1") and crowd.enter(second, "2001:db8::2"), "one network of 64 bits"
    assert crowd.enter(Somebody(3.0), "2001:db8::3")
    assert (first.is_out, second.is_out, elsewhere.is_out) == (True, False, False)
    second.waits_since = None
    busy = Somebody(None)
    assert crowd.enter(busy, "2001:db8::4")
    assert not crowd.enter(Somebody(9.0), "2001:db8::5"), "every one of this address has a request under way"
    assert not second.is_out and not busy.is_out
    for address in ("198.51.100.1", "127.0.0.1", "::1"):
        assert all(crowd.enter(Somebody(float(n)), address) for n in range(5)), "behind it stand many"
    assert len(crowd) == 3 + 1 + 15


def test_only_a_named_proxy_is_believed() -> None:
    """`web.proxies`: what it says of who calls; anybody else's X-Forwarded-For is air."""
    app = FastAPI()

    @app.get("/who")
    def who(request: Request) -> Response:
        return PlainTextResponse(f"{request.client.host} {request.url.scheme}" if request.client else "")

    said = b"GET /who HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.9.9.9, 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\r\n"
    for proxies, told in (
        ((), b"127.0.0.1 http"),
        (("127.0.0.1",), b"203.0.113.7 https"),
        (("::1",), b"127.0.0.1 http"),
    ):
        with serving(app, proxies=proxies) as port, called(port) as proxy:
            assert asked(proxy, said) == (200, told)
