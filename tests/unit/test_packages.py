"""Packages: digest before parsing, strangers refused, names never joined, descriptions strict."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures_packages import make_tiny_package, tiny_description
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_engine.packages import DescriptionError, find_package, list_packages, load_package, seal_package, store
from ai_engine.packages.colour import cielab_from_rgb
from ai_engine.packages.schema import parse_description
from dicom_node.refusals import RefusalCode, Refused

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_package(tmp_path_factory.mktemp("models"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "models" / "tiny-bright" / "1.0.0"
    copy.mkdir(parents=True)
    for file in made.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def _code(call: Callable[[], object]) -> RefusalCode:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.refusal.code


def test_the_digest_is_that_of_the_manifest(folder: Path) -> None:
    package = load_package(folder)
    assert package.digest_sha256 == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert package.files["weights.safetensors"] == (folder / "weights.safetensors").read_bytes()
    light = load_package(folder, weights=False, pinned_sha256=package.digest_sha256)
    assert "weights.safetensors" not in light.files
    assert light.digest_sha256 == package.digest_sha256


@pytest.mark.parametrize("weights", [True, False])
def test_one_flipped_byte_anywhere_is_found(folder: Path, weights: bool) -> None:
    pinned = load_package(folder).digest_sha256
    for file in sorted(folder.iterdir()):
        good = file.read_bytes()
        for position in (0, len(good) // 2, len(good) - 1):
            file.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
            code = _code(lambda: load_package(folder, pinned_sha256=pinned, weights=weights))
            assert code is RefusalCode.MODEL_HASH_MISMATCH
        file.write_bytes(good)
    load_package(folder, pinned_sha256=pinned)


def test_nothing_is_parsed_before_its_digest_is_right(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.yaml").write_text("never: [parsed")
    monkeypatch.setattr(store, "parse_description", lambda _: pytest.fail("parsed before it was checked"))
    assert _code(lambda: load_package(folder)) is RefusalCode.MODEL_HASH_MISMATCH
    monkeypatch.setattr(store, "json", None)
    assert _code(lambda: load_package(folder, pinned_sha256="0" * 64)) is RefusalCode.MODEL_HASH_MISMATCH


def test_what_is_used_are_the_bytes_that_were_checked(folder: Path) -> None:
    """I25: a file swapped after the check changes nothing."""
    package = load_package(folder)
    for file in folder.iterdir():
        file.write_bytes(b"swapped")
    assert package.json("plans.json")["dataset_name"] == "Dataset999_Tiny"
    assert len(package.files["weights.safetensors"]) > 100


def test_strangers_links_and_folders_are_refused(folder: Path) -> None:
    for make, undo in (
        (lambda p: p.write_bytes(b"x"), lambda p: p.unlink()),
        (lambda p: p.mkdir(), lambda p: p.rmdir()),
        (lambda p: p.symlink_to("/etc/hostname"), lambda p: p.unlink()),
        (lambda p: os.mkfifo(p), lambda p: p.unlink()),
    ):
        stranger = folder / "stranger"
        make(stranger)
        assert _code(lambda: load_package(folder)) is RefusalCode.MODEL_UNTRUSTED
        undo(stranger)
    load_package(folder)
    (folder / "CARD.md").unlink(missing_ok=True)
    plans = folder / "plans.json"
    moved = plans.rename(folder.parent / "elsewhere.json")
    assert _code(lambda: load_package(folder)) is RefusalCode.MODEL_HASH_MISMATCH
    plans.symlink_to(moved)
    assert _code(lambda: load_package(folder)) is RefusalCode.MODEL_UNTRUSTED


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format=2),
        lambda m: m.update(extra=1),
        lambda m: m.pop("name"),
        lambda m: m.update(files=[]),
        lambda m: m["files"]["plans.json"].update(sha256="zz"),
        lambda m: m["files"]["plans.json"].pop("size_bytes"),
        lambda m: m.update(version="9.9.9"),
        lambda m: m["files"].pop("model.yaml"),
    ],
)
def test_a_manifest_of_another_form_is_refused(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    (folder / "manifest.json").write_bytes(store.canonical_json(manifest))
    assert _code(lambda: load_package(folder)) is RefusalCode.MODEL_UNTRUSTED


def test_one_manifest_has_one_spelling(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    assert _code(lambda: load_package(folder)) is RefusalCode.MODEL_UNTRUSTED


def test_the_newest_version_is_found_and_a_release_beats_its_preview(folder: Path) -> None:
    root = folder.parent.parent
    for version in ("0.9.10", "0.10.0", "2.0.0-rc1", "1.0.0-rc2"):
        copy = folder.parent / version
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    (folder.parent / "draft").mkdir()
    assert find_package(root, "tiny-bright").name == "2.0.0-rc1"
    assert find_package(root, "tiny-bright@0.9.10").name == "0.9.10"
    order = [version for _, version, _ in list_packages(root)]
    assert order == ["0.9.10", "0.10.0", "1.0.0-rc2", "1.0.0", "2.0.0-rc1"]
    assert _code(lambda: find_package(root, "tiny-bright@3.0.0")) is RefusalCode.VALIDATION
    assert list_packages(root / "nowhere") == []


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.sampled_from(
            ["..", ".", "", "@", "../x", "/etc/passwd", "tiny-bright@../1.0.0", "tiny-bright/1.0.0", "a\0b"]
        ),
    )
)
def test_no_name_becomes_a_path(made: Path, reference: str) -> None:
    """I9: whatever is asked for, only what the folder list holds is given back."""
    root = made.parent.parent
    if reference in ("tiny-bright", "tiny-bright@", "tiny-bright@1.0.0"):
        assert find_package(root, reference) == made
        return
    with pytest.raises(Refused) as caught:
        find_package(root, reference)
    assert (caught.value.refusal.code, caught.value.refusal.found) == (RefusalCode.VALIDATION, "no such model")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d.pop("licence"), "licence"),
        (lambda d: d["inputs"][0].update(colour="red"), "colour"),
        (lambda d: d["inputs"][0].update(intensity="os.system"), "intensity"),
        (lambda d: d["inputs"][0].update(spacing_in_plane_mm=[2, 1]), "lower limit"),
        (lambda d: d["inputs"].append(d["inputs"][0]), "more than once"),
        (lambda d: d.update(axes="SPI"), "axes"),
        (lambda d: d.update(axes="XYZ"), "axes"),
        (lambda d: d.update(runner="pickle"), "runner"),
        (lambda d: d.update(task="classification"), "runner"),
        (lambda d: d.update(name="../up"), "name"),
        (lambda d: d.update(weights=["../up"]), "weights"),
        (lambda d: d.update(weights=[]), "weights"),
        (lambda d: d["labels"].append(d["labels"][0]), "more than once"),
        (lambda d: d["labels"][0].update(label=0), "label"),
        (lambda d: d["labels"][0].update(name="x" * 65), "name"),
        (lambda d: d["labels"][0].update(postprocessing={"fill_holes": True}), "measured_effect"),
        (lambda d: d.update(threshold={"rule": "foreground"}), "threshold"),
        (lambda d: d.update(threshold={"rule": "argmax", "value": 0.5}), "threshold"),
        (lambda d: d.update(measurements=["volume", "wishes"]), "measurements"),
        (lambda d: d.update(composites=[{**_named(d), "labels": [1, 7]}]), "known labels"),
        (lambda d: d.update(self_test={"file": "s.safetensors", "voxels": {5: 1}}), "self_test"),
    ],
)
def test_a_description_says_what_is_wrong(change: Callable[[dict[str, Any]], object], word: str) -> None:
    tree = json.loads(json.dumps(tiny_description()))
    change(tree)
    with pytest.raises(DescriptionError, match=word):
        parse_description(yaml.safe_dump(json.loads(json.dumps(tree))).encode())


def _named(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree["labels"][0].items() if key != "label"} | {"key": "union"}


@pytest.mark.parametrize(
    "data",
    [
        b"a: &x [1]\nb: *x\n",
        b"name: a\nname: b\n",
        b"!!python/object/apply:os.system ['true']\n",
        b"a: [\n",
        b"\xff\xfe\x00",
        b"- a list\n",
        b"",
        b"x" * 300_000,
        b"[" * 5000,
    ],
)
def test_hostile_yaml_is_only_refused(data: bytes) -> None:
    with pytest.raises(DescriptionError):
        parse_description(data)


def test_sealing_needs_every_file_that_is_named(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(DescriptionError, match=r"weights\.safetensors"):
        seal_package(folder)


def test_colours_come_back_in_a_reader_as_the_rgb_of_the_package() -> None:
    from highdicom.color import CIELabColor

    assert cielab_from_rgb((0, 0, 0))[0] == 0
    for rgb in ((255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 128, 0), (12, 200, 99), (128, 128, 128)):
        read = CIELabColor.from_dicom_value(cielab_from_rgb(rgb)).to_rgb()
        assert all(abs(ours - theirs) <= 1 for ours, theirs in zip(rgb, read, strict=True))


def test_the_parent_needs_no_framework() -> None:
    """The node's processes that only look at packages and keep a child stay small."""
    program = (
        "import sys, ai_engine.host, ai_engine.predict, ai_engine.selftest, ai_engine.packages.importing\n"
        "print([m for m in ('torch', 'openvino', 'nnunetv2', 'scipy', 'cc3d') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
