"""I22: wrong configuration stops the start, names the key, and never prints a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.settings import SettingsRefused, load_settings, read_secret

pytestmark = pytest.mark.unit


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_file_is_what_the_code_says() -> None:
    shipped = load_settings(Path(__file__).parents[2] / "config" / "node.yaml")
    assert shipped.door.host == "127.0.0.1" and shipped.web.host == "127.0.0.1"
    assert shipped.sender("ORTHANC") is not None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("door: {prot: 11112}", "door.prot"),
        ("dor: {}", "dor"),
        ("door: {port: 70000}", "door.port"),
        ("node: {ae_title: this-title-is-far-too-long}", "node.ae_title"),
        ("destinations: {pacs: {kind: ftp}}", "destinations.pacs"),
        ("destinations: {pacs: {kind: folder, path: x, after: nowhere}}", "destinations"),
        ("node: {timezone_offset: CET}", "node.timezone_offset"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(SettingsRefused, match=key.replace(".", r"\.")):
        load_settings(write(tmp_path, text))


@pytest.mark.parametrize("section", ["door", "web"])
def test_plain_text_beyond_loopback_needs_a_reason(tmp_path: Path, section: str) -> None:
    with pytest.raises(SettingsRefused, match="insecure_ok_because"):
        load_settings(write(tmp_path, f"{section}: {{host: 0.0.0.0}}"))
    reason = f'{section}: {{host: 0.0.0.0, insecure_ok_because: "isolated VLAN"}}'
    assert getattr(load_settings(write(tmp_path, reason)), section).host == "0.0.0.0"


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_NODE__DOOR__PORT", "12345")
    assert load_settings(write(tmp_path, "door: {port: 11112}")).door.port == 12345


def test_not_yaml_and_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="line 1"):
        load_settings(write(tmp_path, "a: [1"))
    with pytest.raises(SettingsRefused, match="expected sections"):
        load_settings(write(tmp_path, "- 1"))
    with pytest.raises(SettingsRefused, match="No such file"):
        load_settings(tmp_path / "absent.yaml")


def test_a_secret_that_others_can_read_is_refused_and_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter2-marker", encoding="utf-8")
    path.chmod(0o644)
    with pytest.raises(SettingsRefused) as refused:
        read_secret(path)
    assert "hunter2" not in str(refused.value) and "0644" in str(refused.value)
    path.chmod(0o600)
    assert read_secret(path) == "hunter2-marker"
    path.write_text("", encoding="utf-8")
    with pytest.raises(SettingsRefused, match="empty"):
        read_secret(path)


def test_tensorflow_is_asked_of_keras_packages_only() -> None:
    from dicom_node.models import engine_settings
    from dicom_node.settings import EngineSection

    section = EngineSection(backend="tensorflow", precision="int8", threads=2)
    assert engine_settings(section, "keras").backend == "tensorflow"
    told = engine_settings(section, "nnunet")
    assert (told.backend, told.precision, told.threads) == ("auto", "int8", 2)
    assert engine_settings(EngineSection(backend="torch"), "nnunet").backend == "torch"
