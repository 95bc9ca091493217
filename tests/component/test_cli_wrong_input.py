"""Every command of `ai-node` with what is wrong, missing, swapped or not there: a documented exit code and plain words.

The commands are taken from the program itself and are run as their own `--help` says in its example, with one thing
changed: the settings, the records, a file.  A new command is walked, or fails `test_every_command_is_walked`.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import json
import shlex
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from ai_engine.faults import ModelFault, WrongInput
from dicom_node.cli import app, troubles
from dicom_node.record import Database
from tests.fixtures_classifier import make_tiny_classifier
from tests.fixtures_packages import make_tiny_package

pytestmark = pytest.mark.component

REPOSITORY = Path(__file__).resolve().parents[2]

PROCESSES = {"serve", "listen", "work", "web", "bridge"}
ELSEWHERE = {"demo", "health", "doctor", "config show", "backup"}
"""Each has its own test below or, of demonstration and back-up, elsewhere (test_demo.py, test_backup.py)."""
OF_FILES = {
    "send", "predict", "models list", "models show", "models verify", "models seal", "models gate",
    "models import nnunet", "models import keras", "routes explain", "train brain-flair", "train brain-tumour",
    "train tumour-folds", "train nnunet", "train report", "train seal", "train check", "train brain-tumour-tf",
    "train skin", "train quality", "train decide", "benchmark", "evaluate", "calibrate", "tls init", "tls renew",
    "tls issue", "tls status", "at-rest init", "at-rest rotate", "at-rest status", "at-rest apply",
}  # fmt: skip
"""Need no records."""


def examples() -> dict[str, list[str]]:
    """Every command, and the words of its example."""
    spec = importlib.util.spec_from_file_location("make_cli", REPOSITORY / "docs" / "make_cli.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {}
    for name, command in module.commands():
        line = (command.help or "").partition("Example: ")[2].strip().splitlines()[0]
        words = shlex.split(line)[1:]
        found[name] = words[2:] if words[0] == "--config" else words
    return found


EXAMPLES = examples()
OF_RECORDS = sorted(set(EXAMPLES) - OF_FILES - PROCESSES - ELSEWHERE)


def test_every_command_is_walked() -> None:
    assert set(EXAMPLES) >= OF_FILES | PROCESSES | ELSEWHERE, "a command has gone"
    assert {"studies", "jobs retry", "users create", "audit verify", "retention hold"} <= set(OF_RECORDS)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with settings, which is where every command is run."""
    monkeypatch.chdir(tmp_path)
    door, web, orthanc = free_port(), free_port(), free_port()
    values = {
        "data": {"folder": str(tmp_path / "data"), "min_free_gb": 0},
        "door": {"port": door},
        "web": {"port": web},
        "orthanc": {"url": f"http://127.0.0.1:{orthanc}", "dicom_port": orthanc},
        "routes": str(REPOSITORY / "config" / "routes.yaml"),
        "engine": {"models": str(tmp_path / "models"), "threads": 1},
    }
    (tmp_path / "node.yaml").write_text(json.dumps(values), encoding="utf-8")
    return tmp_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*words: str, codes: set[int], config: str = "node.yaml", stdin: str = "") -> str:
    """Run a command: it ends with one of these codes and says why in words, whatever else happens."""
    done = CliRunner().invoke(app, ["--config", config, *words], input=stdin)
    line = f"ai-node {' '.join(words)}: {done.exit_code}\n{done.output}"
    assert done.exception is None or isinstance(done.exception, SystemExit), (line, repr(done.exception))
    assert done.exit_code in codes, line
    assert "Traceback" not in done.output and "a fault of ours" not in done.output, line
    if done.exit_code:
        assert len(done.stderr.split()) >= 3, line
    return done.output


# -- the settings


def _is_missing(_path: Path) -> None: ...


def _is_a_folder(path: Path) -> None:
    path.mkdir()


def _is_no_text(path: Path) -> None:
    path.write_bytes(bytes(range(128, 256)) * 8)


def _is_no_yaml(path: Path) -> None:
    path.write_text("node: [unclosed\n", encoding="utf-8")


def _has_an_unknown_key(path: Path) -> None:
    path.write_text("node: {ae_titel: X}\n", encoding="utf-8")


def _is_a_list(path: Path) -> None:
    path.write_text("- node\n", encoding="utf-8")


SETTINGS = [_is_missing, _is_a_folder, _is_no_text, _is_no_yaml, _has_an_unknown_key, _is_a_list]


@pytest.mark.parametrize("make", SETTINGS, ids=lambda make: make.__name__.strip("_"))
def test_wrong_settings(site: Path, make: Callable[[Path], None]) -> None:
    make(site / "wrong.yaml")
    without = {"at-rest init", "demo"}  # read no settings
    for name, words in EXAMPLES.items():
        if name not in without:
            # 2 where a file of the example is looked for before the settings are
            said = run(*words, config="wrong.yaml", codes={5} if name not in OF_FILES else {2, 5}, stdin="y\n")
            assert "wrong.yaml" in said or "ae_titel" in said or name in OF_FILES, (name, said)


def test_a_variable_of_the_environment_that_is_no_json(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_NODE__DOOR", "{senders")
    assert "AI_NODE__" in run("studies", codes={5})


# -- the records


def _are_not_there(_path: Path) -> None: ...


def _are_no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"these are no records of anybody " * 200)


def _are_a_folder(path: Path) -> None:
    path.mkdir(parents=True)


def _are_newer(path: Path) -> None:
    _stamped(path, "9999")


def _are_older(path: Path) -> None:
    _stamped(path, "0010")


def _stamped(path: Path, version: str) -> None:
    database = Database(f"sqlite:///{path}")
    database.migrate()
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
    database.close()


RECORDS = {
    _are_not_there: "ai-node serve",
    _are_no_database: "back-up",
    _are_a_folder: "opened",
    _are_newer: "newer version",
    _are_older: "older version",
}


@pytest.mark.parametrize("make", RECORDS, ids=lambda make: make.__name__.strip("_"))
def test_wrong_records(site: Path, make: Callable[[Path], None]) -> None:
    make(site / "data" / "records.sqlite")
    there = sorted(site.rglob("*"))
    for name in OF_RECORDS:
        said = run(*EXAMPLES[name], codes={5}, stdin="y\n")
        assert RECORDS[make] in said, (name, said)
    if make is _are_not_there:
        assert sorted(site.rglob("*")) == there, "looking makes nothing"


def test_what_is_not_there_is_said(site: Path) -> None:
    """Ids, names and accounts of the examples, in an installation that has none of them."""
    database = Database(f"sqlite:///{site}/data/records.sqlite")
    database.migrate()
    database.close()
    done = {
        "studies", "jobs list", "destinations list", "held list", "models aliases", "models compare", "users create",
        "users list", "sites create", "sites list", "keys create", "keys list",
        "keys revoke", "tokens list", "tokens rotate", "audit rotate-key", "audit sign", "audit list", "audit export",
        "retention show", "retention run",
    }  # fmt: skip
    asked_wrongly = {"audit verify", "destinations pause"}
    for name in OF_RECORDS:
        code = 0 if name in done else 2 if name in asked_wrongly else 3
        run(*EXAMPLES[name], codes={code}, stdin="y\n")


# -- files


def _no_file(_path: Path) -> None: ...


def _a_folder(path: Path) -> None:
    path.mkdir()


def _empty(path: Path) -> None:
    path.touch()


def _garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)


FILES = [_empty, _garbage, *(pytest.param(make, marks=pytest.mark.long) for make in (_no_file, _a_folder))]

GIVEN = {
    "send": "send X",
    "predict": "predict --model tiny-bright X --out results",
    "predict a NIfTI": "predict --model tiny-bright X.nii.gz --out results",
    "predict a photograph": "predict --model tiny-spots X.jpg --out results",
    "models list": "models list --models X",
    "models show": "models show tiny-bright --models X",
    "models verify": "models verify tiny-bright --models X",
    "models seal": "models seal X",
    "models gate": "models gate tiny-bright --data X --case a",
    "models import nnunet": "models import nnunet X --name n",
    "models import keras": "models import keras X --name n",
    "models import keras described": "models import keras model.h5 --name n --description X",
    "routes explain": "routes explain X",
    "routes explain by": "routes explain . --routes X",
    "train brain-flair": "train brain-flair --data X --out out",
    "train brain-tumour": "train brain-tumour --data X --out out",
    "train tumour-folds": "train tumour-folds --data X --out out",
    "train nnunet": "train nnunet --data X --out out --name n",
    "train report": "train report --out X",
    "train seal": "train seal X",
    "train check": "train check X --data . --out out",
    "train check on": "train check models/tiny-bright/1.0.0 --data X --out out",
    "train skin": "train skin --data X --out out",
    "train quality": "train quality --package X --data . --pictures .",
    "train quality on": "train quality --package models/tiny-spots/1.0.0 --data X --pictures .",
    "train decide": "train decide --package models/tiny-spots/1.0.0 --data X --words w",
    "benchmark": "benchmark X --url http://127.0.0.1:1/api/v1/predict/nnUNet --runs 1 --warm-ups 0 --users 1",
    "evaluate": "evaluate X --model tiny-bright --labels 1=lesion",
    "evaluate a table": "evaluate X.csv --model tiny-bright --labels 1=lesion",
    "evaluate a classifier": "evaluate X --model tiny-spots",
    "evaluate overridden": "evaluate . --model tiny-spots --override X",
    "calibrate": "calibrate tiny-spots --data X --population p",
    "users create": "users create a@b.example --name A --role operator --password-file X",
    "audit verify": "audit verify --heads X",
}
"""Commands that are given a file or folder; `X` is the wrong one."""


def test_every_command_of_files_is_given_a_wrong_one() -> None:
    walked = {name for name in OF_FILES for line in GIVEN.values() if line.startswith(f"{name} ")}
    keys = {name for name in OF_FILES if name.startswith(("tls ", "at-rest "))}
    assert OF_FILES - walked - keys == {"train brain-tumour-tf"}, (
        "which needs TensorFlow, and reads as brain-tumour does"
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packages") / "models"
    make_tiny_package(root)
    make_tiny_classifier(root, name="tiny-spots")
    return root


@pytest.mark.parametrize("make", FILES)
def test_wrong_files(site: Path, models: Path, make: Callable[[Path], None]) -> None:
    (site / "models").symlink_to(models)
    (site / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    Database(f"sqlite:///{site}/data/records.sqlite").migrate()
    for ending in ("", ".nii.gz", ".jpg", ".csv"):
        make(site / f"X{ending}")
        (site / f"X{ending}").exists() and (site / f"X{ending}").chmod(0o700)
    listed = make in (_a_folder,)  # an empty models folder is no mistake
    for name, line in GIVEN.items():
        if line.startswith("predict") and make is not _garbage:
            continue  # a child that loads the model beside each; once is enough
        run(*line.split(), codes={0} if listed and name == "models list" else {2, 3, 5})


def test_a_collection_instead_of_the_folder_that_holds_it(site: Path, models: Path) -> None:
    (site / "models").symlink_to(models)
    (site / "lgg-flair").mkdir()
    (site / "lgg-flair" / "cases.csv").write_text("case,institution\nTCGA_1,CS\n", encoding="utf-8")
    package = "models/tiny-bright/1.0.0"
    said = run("train", "check", package, "--data", "lgg-flair", "--out", "out", codes={2})
    assert "image" in said and "the folder in which 'lgg-flair' lies" in " ".join(said.split())


def test_results_cannot_be_written(site: Path, models: Path) -> None:
    """Found out before the work, not after it."""
    (site / "models").symlink_to(models)
    (site / "taken").write_text("a file", encoding="utf-8")
    (site / "cases.csv").write_text("case,role,path,label\n", encoding="utf-8")
    for line in (
        "evaluate cases.csv --model tiny-bright --labels 1=lesion --out taken",
        "predict --model tiny-bright cases.csv --out taken",
        "calibrate tiny-spots --data cases.csv --population p --out taken/override.json",
        "benchmark cases.csv --url http://127.0.0.1:1/x --out taken",
        "tls init --name ainode.example",
    ):
        if line.startswith("tls"):
            values = json.loads((site / "node.yaml").read_text(encoding="utf-8"))
            names = ("certificate_file", "private_key_file", "authority_file")
            values["tls"] = {name: f"{site}/taken/{name}" for name in names}
            (site / "node.yaml").write_text(json.dumps(values), encoding="utf-8")
        assert "taken" in run(*line.split(), codes={2, 5}), line


# -- peers, ports, other nodes


def test_nobody_answers(site: Path) -> None:
    assert "ai-node serve" in run("health", codes={4})
    said = json.loads(run("doctor", "--json", codes={1}).splitlines()[0])
    assert {one["check"] for one in said if one["level"] == "bad"} >= {"orthanc"}
    photo = ("node.yaml", "--patient", "1", "--issuer", "H")
    assert "of the settings" in run("send", *photo, "--to", "nowhere", codes={2})
    (site / "images").mkdir()
    assert "expected AE@host:port" in run("send", "images", "--to", "x", codes={2})


def test_a_port_that_somebody_else_has(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.cli.processes.LEAVING_S", 0.0)
    monkeypatch.setattr("dicom_node.cli.processes._check_before_start", lambda chosen: None)
    values = json.loads((site / "node.yaml").read_text(encoding="utf-8"))
    for key, processes in (("door", ("serve", "listen")), ("web", ("serve", "web"))):
        with socket.socket() as other:
            other.bind(("127.0.0.1", values[key]["port"]))
            other.listen()
            for name in processes:
                assert f"{key}.port" in run(name, codes={5}), name


def test_a_second_node_on_the_same_folder(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.cli.processes.LEAVING_S", 0.0)
    monkeypatch.setattr("dicom_node.cli.processes._check_before_start", lambda chosen: None)
    for name in ("vault/.lock", "engine.sqlite.lock"):
        lock = site / "data" / name
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert "another node runs on the data folder" in run("serve", codes={5})
    assert not (site / "data" / "records.sqlite").exists(), "a second node does not migrate the first one's records"


def test_a_bridge_without_a_broker(site: Path) -> None:
    assert "bridge.host" in run("bridge", codes={5})


def test_erasing_needs_a_yes(site: Path) -> None:
    Database(f"sqlite:///{site}/data/records.sqlite").migrate()
    for answer in ("", "n\n"):
        assert "--yes" in run("retention", "erase", "1f0c", "--reason", "r", codes={2}, stdin=answer)


# -- what nobody thought of


def _raised(fault: Exception) -> Exception:
    try:
        raise fault
    except Exception as raised:
        return raised


def _of_sqlite(name: str) -> OperationalError:
    cause = sqlite3.OperationalError("DROP TABLE Perez")
    cause.sqlite_errorname = name
    return OperationalError("SELECT 'Perez'", {}, cause)


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), 2, "as its owner"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), 1, "free space"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/data/x"), 2, "/data/x: Is a directory"),
        (_of_sqlite("SQLITE_FULL"), 1, "the disk is full"),
        (_of_sqlite("SQLITE_BUSY_SNAPSHOT"), 1, "busy"),
        (_of_sqlite("SQLITE_READONLY_DBMOVED"), 5, "cannot be written"),
        (_of_sqlite("SQLITE_CORRUPT"), 5, "damaged"),
        (_of_sqlite("SQLITE_ERROR"), 1, "a fault of ours: OperationalError"),
        (WrongInput("expected a table, found none"), 2, "expected a table, found none"),
        (ModelFault("weights of Perez"), 1, "the model does not run (model-fault)"),
        (ValueError("Perez^Juan"), 1, "a fault of ours: ValueError at test_cli_wrong_input.py:"),
        (OSError("Perez"), 1, "a fault of ours: OSError"),
    ],
)
def test_whatever_is_raised_is_told(
    fault: Exception, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert troubles.end(_raised(fault)) == code
    said = " ".join(capsys.readouterr().err.split())
    assert words in said and "Perez" not in said and "Traceback" not in said


def test_a_command_that_fails_shows_no_text_and_no_traceback(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The boundary itself: what a command raises is told by type and place, whatever library raised it."""

    def fails(*_: Any, **__: Any) -> Any:
        raise KeyError("Perez^Juan")

    monkeypatch.setattr("dicom_node.cli.operate.settings", fails)
    done = CliRunner().invoke(app, ["studies"])
    assert (done.exit_code, "Perez" in done.output, "Traceback" in done.output) == (1, False, False)
    assert "a fault of ours: KeyError at test_cli_wrong_input.py:" in " ".join(done.stderr.split())
