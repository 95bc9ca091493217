"""I22 for destinations: what is wrong in the configuration stops the start, and is named by its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError

from dicom_node.cli.destinations import check_files
from dicom_node.settings import Settings, SettingsRefused

pytestmark = pytest.mark.unit

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPp0eJ1Hh3hPzxJ0lI4n5vXxk0nUuQkqk0o9sW6uYc2W"
SFTP = {"kind": "sftp", "host": "h", "username": "u", "password_file": "p", "host_keys": [KEY]}
FTP = {"kind": "ftp", "host": "h", "username": "u", "password_file": "p"}
FTPS = {**FTP, "kind": "ftps"}
HTTP = {"kind": "http", "url": "https://h/in"}
FOLDER = {"kind": "folder", "path": "/out"}


def made(destination: dict[str, Any]) -> Settings:
    return Settings(destinations={"one": destination})


@pytest.mark.parametrize(
    ("destination", "says"),
    [
        ({**SFTP, "host_keys": []}, "host_keys"),
        ({**SFTP, "host_keys": ["any"]}, "host_keys"),
        ({**SFTP, "host_keys": ["SHA256:abc"]}, "host_keys"),
        ({**SFTP, "host_keys": ["ssh-rsa " + KEY.split()[1]]}, "host_keys"),
        ({**SFTP, "password_file": None}, "key_file"),
        (FTP, "insecure_ok_because"),
        ({**FTP, "insecure_ok_because": ""}, "insecure_ok_because"),
        ({**FTPS, "insecure_ok_because": "no"}, "insecure_ok_because"),
        ({**HTTP, "url": "http://h/in"}, "insecure_ok_because"),
        ({**HTTP, "url": "ftp://h/in"}, "https"),
        ({**HTTP, "url": "https://u:p@h/in"}, "user name"),
        ({**HTTP, "token_file": "t", "username": "u"}, "token_file"),
        ({**HTTP, "webdav": True, "method": "POST"}, "webdav"),
        ({**HTTP, "webdav": True, "check": "answer"}, "webdav"),
        ({**FOLDER, "objects": []}, "objects"),
        ({**FOLDER, "objects": ["seg", "seg"]}, "objects"),
        ({**FOLDER, "objects": ["patient"]}, "objects"),
        ({**FOLDER, "names": "{patient}"}, "names"),
        ({**FOLDER, "names": "{run}"}, "one name"),
        ({**FOLDER, "names": "../{hash}"}, "names"),
        ({**FOLDER, "names": "/{hash}"}, "names"),
        ({**FOLDER, "names": "a//{hash}"}, "names"),
        ({**FOLDER, "names": "{hash!r}"}, "names"),
        ({**FOLDER, "names": "{hash:>9}"}, "names"),
        ({**FOLDER, "names": "{hash.x}"}, "names"),
        ({**FOLDER, "names": "{hash"}, "names"),
        ({**FOLDER, "names": "ä{hash}"}, "names"),
    ],
)
def test_what_is_wrong_is_named(destination: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        made(destination)


@pytest.mark.parametrize("destination", [SFTP, {**FTP, "insecure_ok_because": "a lab network"}, FTPS, HTTP, FOLDER])
@pytest.mark.parametrize("names", ["{hash}", "{study}/{run}-{object}", "{model}_{run}.{object}"])
def test_what_is_right_is_taken(destination: dict[str, Any], names: str) -> None:
    assert made({**destination, "names": names}).destinations["one"].kind == destination["kind"]


def test_a_secret_that_others_can_read_or_a_missing_certificate_stops_the_start(tmp_path: Path) -> None:
    secret, authority = tmp_path / "secret", tmp_path / "ca.pem"
    good = made({**FTPS, "password_file": secret, "ca_file": authority})
    with pytest.raises(SettingsRefused, match=r"destinations\.one\.password_file"):
        check_files(good)
    secret.write_text("marker")
    secret.chmod(0o644)
    with pytest.raises(SettingsRefused, match="0644") as refused:
        check_files(good)
    assert "marker" not in str(refused.value)
    secret.chmod(0o600)
    with pytest.raises(SettingsRefused, match=r"one\.ca_file"):
        check_files(good)
    authority.write_text("no certificate")
    with pytest.raises(SettingsRefused, match=r"one\.ca_file"):
        check_files(good)
    trustme.CA().cert_pem.write_to_path(authority)
    check_files(good)
