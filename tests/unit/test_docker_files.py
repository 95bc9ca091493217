"""The container files are what docker/README.md says of them; no container engine is needed to see that."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from dicom_node.cli import app
from dicom_node.demo.sending import Peer
from dicom_node.orthanc import read_template
from dicom_node.settings import Settings, load_settings

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "docker"
STEPS = sorted((DOCKER / "steps").iterdir())
COMPILERS = ("gcc", "g++", "clang", "build-essential", "make", "cmake", "rustc", "cargo", "python3-dev", "dpkg-dev")
FINAL = ("cpu", "gpu", "orthanc")


class Stage:
    """One FROM of the Dockerfile and what follows it."""

    def __init__(self, base: str, name: str) -> None:
        self.base, self.name = base, name
        self.lines: list[tuple[str, str]] = []

    def all(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.lines if word == instruction]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    for line in (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word or word.startswith("#"):
            continue
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = stage = Stage(base, name)
        else:
            stage.lines.append((word, rest))
    return found


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and those it is built on, the lowest first."""
    chain = [stages[name]]
    while chain[0].base in stages:
        chain.insert(0, stages[chain[0].base])
    return chain


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8")))


# -- Dockerfile and steps


def test_every_source_of_a_copy_is_there(stages: dict[str, Stage]) -> None:
    for stage in stages.values():
        for rest in stage.all("COPY"):
            words = rest.split()
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in stages
                continue
            for source in words[:-1]:
                if source == "models" and not (REPOSITORY / source).exists():
                    continue  # weights may be fetched after a checkout; everything else is in the repository
                assert (REPOSITORY / source).exists(), source


def test_every_step_that_is_run_was_copied_and_is_valid_shell(stages: dict[str, Stage]) -> None:
    used = set()
    for name in stages:
        chain = lineage(stages, name)
        copied = {Path(s).name for stage in chain for rest in stage.all("COPY") for s in rest.split()[:-1]}
        for rest in stages[name].all("RUN"):
            if step := re.search(r"sh /steps/(\S+)", rest):
                assert step[1] in copied
                used.add(step[1])
    assert used == {path.name for path in STEPS}
    for script in (*STEPS, DOCKER / "orthanc.sh", DOCKER / "rootfs.sh"):
        subprocess.run(["sh", "-n", str(script)], check=True)
        assert "\nset -eu\n" in script.read_text(encoding="utf-8"), script.name


def test_no_compiler_and_no_secret_in_what_is_shipped(stages: dict[str, Stage]) -> None:
    for name in FINAL:
        for stage in lineage(stages, name):
            for rest in stage.all("RUN"):
                step = re.search(r"sh /steps/(\S+)", rest)
                text = (DOCKER / "steps" / step[1]).read_text(encoding="utf-8") if step else rest
                installed = set(re.findall(r"[\w.+-]+", " ".join(re.findall(r"apt-get install (.*)", text))))
                assert not installed & set(COMPILERS), (name, installed)
                assert "pip install" not in text, "packages are built in another stage"
            assert not [r for r in (*stage.all("ENV"), *stage.all("ARG")) if re.search("PASSWORD|TOKEN|SECRET", r)]
            assert not stage.all("ADD")


def test_no_final_stage_runs_as_root(stages: dict[str, Stage]) -> None:
    user = (DOCKER / "steps" / "30-user").read_text(encoding="utf-8")
    archive = (DOCKER / "steps" / "40-orthanc").read_text(encoding="utf-8")
    assert "useradd --system --uid 10001" in user and "useradd --system --uid 10002" in archive
    for name in FINAL:
        last = [rest for stage in lineage(stages, name) for rest in stage.all("USER")][-1]
        assert last in ("ainode", "orthanc")
    # nothing is run, copied or changed after the last USER of the stage that goes back to root
    words = [word for word, _ in stages["gpu"].lines]
    assert set(words[len(words) - words[::-1].index("USER") :]) <= {"ENV"}


def test_health_check_and_commands_exist(stages: dict[str, Stage]) -> None:
    commands = get_command(app)
    check = re.search(r"CMD (\[.*\])", stages["cpu"].all("HEALTHCHECK")[0])
    assert check
    for words in (json.loads(check[1]), ["ai-node", *json.loads(stages["cpu"].all("CMD")[0])]):
        assert words[0] == "ai-node"
        assert commands.get_command(None, words[1]) is not None  # type: ignore[attr-defined,arg-type]
    assert json.loads(stages["cpu"].all("ENTRYPOINT")[0]) == ["ai-node"]


# -- compose


def test_every_service_is_confined(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["mem_limit"] and service["pids_limit"], name
        assert service["profiles"], name
        assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & service.keys(), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), (name, port)
    assert compose["networks"]["inside"]["internal"] is True


def test_secrets_are_files_and_nothing_else(compose: dict[str, Any]) -> None:
    for secret in compose["secrets"].values():
        assert set(secret) == {"file"}
        assert secret["file"].startswith("../secrets/")
    ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/secrets/" in ignored
    for name, service in compose["services"].items():
        assert "environment" not in service and "env_file" not in service, name
        for used in service.get("secrets", []):
            assert (used["source"] if isinstance(used, dict) else used) in compose["secrets"]
    # one file for each user: a secret that another user may read is refused by the node
    sources = [
        s["source"] if isinstance(s, dict) else s for v in compose["services"].values() for s in v.get("secrets", [])
    ]
    assert len(sources) == len(set(sources))


def test_targets_files_and_addresses_fit_together(
    compose: dict[str, Any], stages: dict[str, Stage], settings: Settings
) -> None:
    services = compose["services"]
    for service in services.values():
        if build := service.get("build"):
            assert build["target"] in FINAL and (DOCKER / build["context"] / build["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            if volume.startswith("."):
                assert (DOCKER / volume.split(":")[0]).is_file() and volume.endswith(":ro")
    address = {name: service["networks"]["inside"]["ipv4_address"] for name, service in services.items()}
    assert settings.orthanc.dicom_host == address["orthanc"]
    assert settings.orthanc.url == f"http://{address['orthanc']}:8042"
    assert [(s.ae_title, s.address) for s in settings.door.senders] == [("ORTHANC", address["orthanc"])]
    archive = read_template(DOCKER / "orthanc-container.json")
    assert archive["DicomModalities"]["ainode"]["Host"] == address["node"]
    assert archive["DicomModalities"]["ainode"]["Port"] == settings.door.port
    assert archive["DicomModalities"]["demo"]["Host"] == address["sender"]
    used = {name for service in services.values() for name in service["networks"]}
    assert used == set(compose["networks"])


def test_the_sender_runs_a_command_that_exists_and_is_known_to_the_archive(compose: dict[str, Any]) -> None:
    from dicom_node.demo.elsewhere import CALLING_AE_TITLE

    sender = compose["services"]["sender"]
    name, option, to = sender["command"]
    command = get_command(app).get_command(None, name)  # type: ignore[attr-defined,arg-type]
    assert option in [opt for parameter in command.params for opt in parameter.opts]
    peer = Peer.parse(to)
    archive = read_template(DOCKER / "orthanc-container.json")
    assert (peer.ae_title, peer.port) == (archive["DicomAet"], archive["DicomPort"])
    assert peer.host == compose["services"]["orthanc"]["networks"]["inside"]["ipv4_address"]
    known = archive["DicomModalities"]["demo"]
    assert (known["AET"], known["AllowStore"]) == (CALLING_AE_TITLE, True)
    assert "secrets" not in sender


# -- configurations


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The node's configuration in the container, as the image's environment names it."""
    for name in [name for name in os.environ if name.startswith("AI_NODE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AI_NODE_CONFIG", str(DOCKER / "node.yaml"))
    return load_settings()


def test_the_node_configuration_is_understood(settings: Settings, compose: dict[str, Any]) -> None:
    secret = compose["services"]["node"]["secrets"][0]["target"]
    assert str(settings.orthanc.password_file) == f"/run/secrets/{secret}"
    assert all(str(d.password_file) == f"/run/secrets/{secret}" for d in settings.destinations.values())
    assert settings.web.insecure_ok_because and settings.door.insecure_ok_because
    assert any(str(settings.data.folder) == v.split(":")[1] for v in compose["services"]["node"]["volumes"])
    assert (REPOSITORY / "config" / settings.routes.name).is_file()


def test_the_archive_in_the_container_keeps_every_safeguard_of_the_shipped_one() -> None:
    shipped = read_template(REPOSITORY / "orthanc" / "orthanc.json")
    contained = read_template(DOCKER / "orthanc-container.json")
    differs = {key for key in shipped if contained.get(key) != shipped[key]}
    # only where it lies, and who its peers are; RemoteAccessAllowed because the node is another machine there
    assert differs == {"Name", "StorageDirectory", "IndexDirectory", "RemoteAccessAllowed", "DicomModalities"} & differs
    assert set(contained) <= set(shipped)
    assert contained["AuthenticationEnabled"] and contained["RegisteredUsers"] == shipped["RegisteredUsers"]
    assert all(not m["AllowMove"] and not m["AllowGet"] for m in contained["DicomModalities"].values())


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_pass_shellcheck() -> None:
    subprocess.run(["shellcheck", "-s", "sh", *map(str, STEPS)], check=True)
