"""`ai-node send`: a folder goes to a storage SCP, and the exit code says what became of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pynetdicom import AE, evt
from test_delivery_stow import make_object

pytestmark = pytest.mark.component


@pytest.fixture
def archive():
    kept: list[bytes] = []
    refuse: set[int] = set()

    def on_store(event: evt.Event) -> int:
        if len(kept) in refuse:
            refuse.clear()
            return 0xA700
        kept.append(event.request.DataSet.getvalue())
        return 0

    entity = AE(ae_title="ARCHIVE")
    entity.require_called_aet = True
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.4")
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    yield f"ARCHIVE@127.0.0.1:{server.socket.getsockname()[1]}", kept, refuse
    server.shutdown()


def send(*options: str) -> tuple[int, dict[str, object] | None, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dicom_node.cli", "send", *options, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_every_image_of_a_folder_arrives_as_it_lies_on_the_disk(archive, tmp_path):
    to, kept, refuse = archive
    objects = [make_object(number) for number in range(1, 4)]
    for number, item in enumerate(objects):
        (tmp_path / f"IM{number}").write_bytes(item.data)
    (tmp_path / "readme.txt").write_text("hello")
    code, said, _ = send(str(tmp_path), "--to", to)
    assert (code, said) == (0, {"stored": 3, "failed": {}, "skipped": 1})
    assert kept == [item.dataset for item in objects]
    refuse.add(4)
    code, said, _ = send(str(tmp_path), "--to", to)
    assert (code, said) == (3, {"stored": 2, "failed": {"status A700H": 1}, "skipped": 1})


def test_a_kind_the_receiver_does_not_take_is_told(archive, tmp_path):
    to, kept, _ = archive
    (tmp_path / "seg.dcm").write_bytes(make_object(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4").data)
    (tmp_path / "mr.dcm").write_bytes(make_object(2).data)
    code, said, _ = send(str(tmp_path), "--to", to)
    assert code == 3
    assert said == {"stored": 1, "failed": {"kind not accepted by the receiver": 1}, "skipped": 0}
    assert len(kept) == 1


def test_exit_codes_for_wrong_usage_no_receiver_and_nothing_to_send(archive, tmp_path, free_port):
    to, _, _ = archive
    code, said, told = send(str(tmp_path), "--to", to)
    assert code == 3 and said is not None and said["refusal"]["code"] == "input-empty"  # type: ignore[index]
    (tmp_path / "mr.dcm").write_bytes(make_object(1).data)
    code, _, told = send(str(tmp_path), "--to", "nonsense")
    assert code == 2 and "AE@host:port" in told
    code, _, told = send(str(tmp_path), "--to", f"ARCHIVE@127.0.0.1:{free_port}")
    assert code == 4 and "MARKER" not in told
