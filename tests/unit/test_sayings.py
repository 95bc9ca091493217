"""Whoever reads Spanish is told in Spanish what was expected and found, and what a result's notes say."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from ai_engine.packages import load_package
from ai_engine.quality.judge import judge
from ai_engine.quality.rule import load_rule
from dicom_node.body_sites import SITES
from dicom_node.identity.checks import normalised
from dicom_node.photo.decode import decode_photo
from dicom_node.refusals import WORDS, Refusal, RefusalCode, Refused
from dicom_node.refusals_es import spoken, told
from dicom_node.sayings import FOLDER, is_known, patterns, said
from dicom_node.volume import build_volume
from dicom_node.volume.archive import unpack
from dicom_node.volume.nifti import read_nifti
from tests.support.sentences import ROOT, Reader, modules

COMPOSED = ("composed.yaml", "body_sites.yaml")
"""Of sentences that are put together, or come from codes: the source does not have them as one text."""

ENGLISH = {"the", "of", "at", "least", "most", "another", "with", "and", "or", "not", "is", "none", "that", "more"}


@cache
def source() -> tuple[frozenset[str], frozenset[str]]:
    reader = Reader(modules())
    return frozenset(reader.refusals()), frozenset(reader.notes())


def test_every_sentence_of_the_source_has_its_spanish() -> None:
    expected, notes = source()
    assert len(expected) > 600 and len(notes) > 90, "the reader has lost its way in the source"
    lacking = sorted(one for one in expected | notes if not is_known(one, "es"))
    assert not lacking, f"add these to a file of {FOLDER.name}/es, English: Spanish"


def test_no_sentence_stays_in_the_list_when_the_source_has_it_no_longer() -> None:
    expected, notes = source()
    composed = {one for name in COMPOSED for one in _file(name)}
    assert not sorted(set(patterns("es")) - expected - notes - composed)


def _file(name: str) -> Mapping[str, str]:
    found: Mapping[str, str] = yaml.safe_load((FOLDER / "es" / name).read_text(encoding="utf-8"))
    return found


def test_places_and_files_fit() -> None:
    whole: list[str] = []
    for path in sorted((FOLDER / "es").glob("*.yaml")):
        whole += _file(path.name)
    assert len(whole) == len(set(whole)) == len(patterns("es")), "a sentence stands in one file"
    for english, spanish in patterns("es").items():
        assert english.count("{}") == spanish.count("{}"), english
        assert english.strip() == english and spanish.strip() == spanish != "", english


def test_every_code_and_every_body_site_has_its_words() -> None:
    for code in RefusalCode:
        assert told(code, "es") != WORDS[code] and told(code, "en") == WORDS[code], code
    for site in SITES:
        assert said(site.code.meaning, "es") != site.code.meaning


def test_what_ships_is_said_too_figures_licences_and_titles_of_routes() -> None:
    shipped = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("models/*/*/model.yaml"))]
    texts = {str(figure[key]) for one in shipped for figure in one.get("metrics", ()) for key in ("name", "data")}
    texts |= {str(figure["group"]) for one in shipped for figure in one.get("metrics", ()) if figure.get("group")}
    texts |= {one["licence"] for one in shipped}
    texts |= {route["title"] for route in yaml.safe_load((ROOT / "config/routes.yaml").read_bytes())["routes"]}
    assert len(texts) > 12
    assert not sorted(one for one in texts if said(one, "es") == one and not is_known(one, "es"))


def test_values_stand_in_their_places() -> None:
    for english, spanish in {
        "a gap of 3.50 mm; 2 slice(s) missing": "un hueco de 3,50 mm; faltan 2 corte(s)",
        "at most 120 bytes": "como máximo 120 bytes",
        "a JPEG with a frame and a scan": "un JPEG con un cuadro y un barrido",
        "t1c, flair or t1": "t1c, flair o t1",
        "MR or CT": "MR o CT",
        "PatientID": "PatientID",
        "Apache-2.0": "Apache-2.0",
        "0.5-2.5": "0,5-2,5",
        "": "",
        "something that nobody has ever said": "something that nobody has ever said",
        "flair: series 12, after contrast (confidence 0.90: SeriesDescription names FLAIR; words and acquisition times "
        "contradict each other)": "flair: serie 12, después del contraste (confianza 0,90: SeriesDescription nombra "
        "FLAIR; las palabras y los tiempos de adquisición se contradicen)",
    }.items():
        assert said(english, "es") == spanish and said(english, "en") == english
    own = {"A low number means little.": "Un número bajo dice poco."}
    assert said("A low number means little.", "es", own) == own["A low number means little."]
    assert said("no role; A low number means little.", "es", own) == "ningún rol; Un número bajo dice poco."


def _zip(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"x")
    return stream.getvalue()


def _empty_folder(folder: Path) -> object:
    return build_volume([])


def _not_dicom(folder: Path) -> object:
    (folder / "a.dcm").write_bytes(b"no DICOM" * 40)
    return build_volume([folder / "a.dcm"])


def _nifti(folder: Path) -> object:
    (folder / "a.nii").write_bytes(b"\x5c\x01\x00\x00" + bytes(60))
    return read_nifti(folder / "a.nii")


def _archive(folder: Path) -> object:
    (folder / "a.zip").write_bytes(_zip("../a"))
    return list(unpack(folder / "a.zip", folder / "out"))


def _picture(folder: Path) -> object:
    return decode_photo(b"GIF89a" + bytes(100))


def _rut(folder: Path) -> object:
    return normalised("12345678-9", "rut")


def _quality(folder: Path) -> None:
    skin = load_package(Path(__file__).resolve().parents[2] / "models" / "skin-lesion" / "1.0.0")
    rule = load_rule(skin)
    dark = np.zeros((300, 300, 3), np.uint8)
    judge(dark, None, "dermoscopic", rule).require()


@pytest.mark.parametrize("provoke", [_empty_folder, _not_dicom, _nifti, _archive, _picture, _rut, _quality])
def test_a_real_refusal_is_read_in_both_languages(provoke: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        provoke(tmp_path)
    english = caught.value.refusal.to_json()
    spanish = spoken(english, "es")
    assert spoken(english, "en") == english
    assert english["expected"] and english["found"]
    for key in ("message", "expected", "found", "advice"):
        words = set(spanish[key].lower().replace(",", " ").replace(":", " ").split())
        assert not words & ENGLISH, (key, spanish[key])
    assert spanish["message"] != english["message"] and spanish["expected"] != english["expected"]


def test_what_the_node_holds_in_its_own_words_is_said_too() -> None:
    message, advice = (
        "The node failed 3 times to decide on this study.",
        "Look for read.fault in the log; after mending, ",
    )
    advice += "release the study."
    held = {"code": "node-fault", "message": message, "expected": "", "found": "KeyError", "advice": advice}
    assert spoken(held, "en") == held
    assert spoken(held, "es")["message"] == "El nodo falló 3 veces al decidir sobre este estudio."
    assert spoken(held, "es")["advice"].startswith("Busque read.fault") and spoken(held, "es")["found"] == "KeyError"
    assert Refusal(RefusalCode.TOO_LARGE, "at most 5 files", "7").to_json()["expected"] == "at most 5 files"
