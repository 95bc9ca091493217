"""What reading the session anew with every request costs: the look-up alone, and a whole request by it.

A record of 200 accounts with 20 living sessions each, on the disk; questions come from sessions in random order.
"""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from fastapi.testclient import TestClient

from bench.machine import about, machine, save, table
from dicom_node.cli import web
from dicom_node.desks.codes import Codes
from dicom_node.desks.people import PORTAL, People
from dicom_node.record import Database, people, sessions
from dicom_node.settings import Settings

ACCOUNTS, EACH = 200, 20
LOOKED_UP, ASKED = 2000, 300


def run(rounds: int = 3) -> None:
    facts, folder = machine(), Path(tempfile.mkdtemp(prefix="bench-sessions-"))
    try:
        seconds = _measure(folder, rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [[what, f"{1e3 * statistics.median(all_of):.2f}", f"{1e3 * statistics.quantiles(all_of, n=20)[-1]:.2f}"]
            for what, all_of in seconds.items()]  # fmt: skip
    print(table(f"Milliseconds, {ACCOUNTS * EACH} living sessions", ["what", "median", "95 %"], rows))
    print(about(facts))
    print(f"written: {save('sessions', facts, {'seconds': seconds})}")


def _measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    settings = Settings(data={"folder": folder})
    database = Database(settings.records_url)
    database.migrate()
    desk = People(settings.people, database, Codes(database, folder, "administrators"))
    secrets = _sessions(database)
    chance = random.Random(7)
    app = web.make_app(settings, database, put=lambda job: None)
    client = TestClient(app, base_url="https://127.0.0.1")
    found: dict[str, list[float]] = {"look-up": [], "request with a session": [], "request that is open": []}

    def ask(path: str, secret: str) -> None:
        client.cookies.set("__Host-session", secret)
        assert client.get(path).status_code == 200

    for _ in range(rounds):
        for secret in chance.choices(secrets, k=LOOKED_UP):
            found["look-up"].append(_timed(lambda: desk.identify(secret, PORTAL)))  # noqa: B023
        for secret in chance.choices(secrets, k=ASKED):
            found["request with a session"].append(_timed(lambda: ask("/account/token", secret)))  # noqa: B023
            client.cookies.clear()
            found["request that is open"].append(_timed(lambda: client.get("/livez")))
    database.close()
    return found


def _timed(body: Callable[[], object]) -> float:
    start = time.perf_counter()
    body()
    return time.perf_counter() - start


def _sessions(database: Database) -> list[str]:
    made = []
    with database.write() as connection:
        for number in range(ACCOUNTS):
            user = people.add_user(
                connection, "bench", email=f"u{number}@hospital.example", name=f"User {number}", password_hash="-",
                roles=["operator"],
            )  # fmt: skip
            for one in range(EACH):
                made.append(f"{number}-{one}")
                sessions.open_session(
                    connection, user, made[-1], kind=PORTAL, life=timedelta(hours=12), agent="bench"
                )  # fmt: skip
    return made
