"""ai-node tls: a site authority, certificates that fit, and settings that refuse what would be plain text."""

from __future__ import annotations

import json
import ssl
import stat
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from dicom_node.cli import app
from dicom_node.settings import Settings, SettingsRefused, load_settings
from dicom_node.tls import check, read_certificate

pytestmark = pytest.mark.unit


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.yaml"
    section = {
        "certificate_file": str(tmp_path / "tls" / "node.pem"),
        "private_key_file": str(tmp_path / "tls" / "node.key"),
        "authority_file": str(tmp_path / "tls" / "authority.pem"),
    }
    path.write_text(yaml.safe_dump({"tls": section, "node": {"organisation": "Hospital"}}), encoding="utf-8")
    return path


def run(config: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["--config", str(config), "tls", *words])


def test_init_renew_issue_and_status(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    assert run(config, "status").exit_code == 5
    made = run(config, "init", "--name", "ainode.example", "--name", "10.1.2.3")
    assert made.exit_code == 0, made.output
    for name in ("node.key", "authority.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    check(load_settings(config).tls.identity)
    first = read_certificate(folder / "node.pem")
    assert set(first.names) == {"ainode.example", "10.1.2.3", "localhost", "127.0.0.1", "::1"}
    assert 395 <= first.days_left() <= 397
    assert run(config, "init", "--name", "ainode.example").exit_code == 5, "nothing is overwritten"

    told = json.loads(run(config, "status", "--json").stdout)
    assert [row["certificate"] for row in told] == ["node", "authority"]
    assert told[0]["sha256"] == first.fingerprint

    authority = (folder / "authority.pem").read_bytes()
    assert "nothing to do" in run(config, "renew", "--if-days", "30").output
    assert read_certificate(folder / "node.pem") == first
    assert run(config, "renew", "--if-days", "1000").exit_code == 0
    renewed = read_certificate(folder / "node.pem")
    assert renewed.fingerprint != first.fingerprint and renewed.names == first.names
    assert (folder / "authority.pem").read_bytes() == authority, "who trusts it need not be visited again"
    check(load_settings(config).tls.identity)

    assert run(config, "issue", "MR 1", "--out", str(tmp_path / "stick")).exit_code == 0
    assert sorted(p.name for p in (tmp_path / "stick").iterdir()) == ["authority.pem", "mr-1.key", "mr-1.pem"]
    assert read_certificate(tmp_path / "stick" / "mr-1.pem").common_name == "MR 1"
    context = ssl.create_default_context(cafile=tmp_path / "stick" / "authority.pem")
    context.load_cert_chain(tmp_path / "stick" / "mr-1.pem", tmp_path / "stick" / "mr-1.key")


def test_without_the_authoritys_key_the_node_runs_and_nothing_is_made(config: Path, tmp_path: Path) -> None:
    assert run(config, "init", "--name", "ainode.example").exit_code == 0
    (tmp_path / "tls" / "authority.key").unlink()
    check(load_settings(config).tls.identity)
    assert run(config, "status").exit_code == 0
    refused = run(config, "renew")
    assert refused.exit_code == 5 and "authority.key" in refused.output.replace("\n", "")


def test_an_end_that_is_near_is_a_fault(config: Path) -> None:
    assert run(config, "init", "--name", "ainode.example", "--days", "10").exit_code == 0
    assert run(config, "status").exit_code == 1


@pytest.mark.parametrize("name", ["", "a b", "https://ainode.example", "-x/..", "ainode..example"])
def test_what_is_no_name_is_refused(config: Path, name: str) -> None:
    assert run(config, "init", "--name", name).exit_code == 2


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"web": {"host": "0.0.0.0", "tls": True}}, ""),
        ({"web": {"host": "0.0.0.0"}}, "web.tls"),
        ({"web": {"host": "0.0.0.0", "insecure_ok_because": " "}}, "web.host"),
        ({"web": {"tls_mutual": True}}, "tls_mutual"),
        ({"door": {"tls_host": "0.0.0.0", "tls_port": 2762}}, ""),
        ({"door": {"host": "0.0.0.0", "tls_port": 2762}}, "door.host"),
        (
            {"destinations": {"p": {"kind": "cstore", "host": "h", "port": 1, "ae_title": "P", "tls_name": "x"}}},
            "tls: true",
        ),
    ],
)
def test_what_would_be_plain_text_refuses_the_start(tmp_path: Path, values: dict[str, object], refused: str) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    if not refused:
        assert isinstance(load_settings(path), Settings) and load_settings(path).uses_tls
        return
    with pytest.raises(SettingsRefused, match=refused):
        load_settings(path)
