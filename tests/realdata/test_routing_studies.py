"""Roles, pictures and cases on real series: the native tumour study, other makers' series, BraTS pairs."""

from __future__ import annotations

import bz2
import json
import random
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from ai_engine.geometry import Affine
from dicom_node.cli import app
from dicom_node.routing import Appearance, ClosedSeries, PastCase, StudyState, Verb, decide
from dicom_node.routing.appearance import Enhancement, appearance, compare_t1, follows_contrast
from dicom_node.routing.book import load_routes, parse_routes
from dicom_node.routing.explanation import explain
from dicom_node.routing.facts import facts
from dicom_node.routing.gate import publication_gate
from dicom_node.routing.roles import assign_roles
from dicom_node.volume import build_volume, read_header
from dicom_node.words import RoleGuess, SeriesFacts

pytestmark = pytest.mark.realdata

REPOSITORY = Path(__file__).resolve().parents[2]

NINE = {
    "s0101_localizer": ("localizer", False),
    "s0303_adc": ("adc", False),
    "s0401_t2_tse_axial": ("t2", False),
    "s0502_t1_3d_axial_pre": ("t1", False),
    "s0701_flair_axial": ("flair", False),
    "s0901_t1_fs_axial_pre": ("t1", False),
    "s1103_t1_3d_fs_axial_post": ("t1c", True),
    "s1201_t1_fs_axial_post": ("t1c", True),
    "s1301_flair_axial_post": ("flair", True),
}

Compare = Callable[[list[str]], Mapping[str, Appearance]]


def unpack(archive: Path, where: Path) -> Path:
    with tarfile.open(archive) as opened:
        opened.extractall(where, filter="data")
    return where


class Study:
    """Series by folder name, with pictures made once."""

    def __init__(self, folders: list[Path]) -> None:
        self.files = {f.name: sorted(p for p in f.iterdir() if p.is_file()) for f in folders}
        self.facts = {name: facts([read_header(p) for p in files]) for name, files in self.files.items()}
        self.names = {s.series_uid: name for name, s in self.facts.items()}
        self.pictures: dict[str, Appearance] = {}
        self.decided: dict[tuple[frozenset[str], bool], dict[str, RoleGuess]] = {}

    def compare(self, uids: list[str]) -> dict[str, Appearance]:
        for uid in uids:
            if uid not in self.pictures:
                volume = build_volume(self.files[self.names[uid]])
                self.pictures[uid] = appearance(volume.array, volume.affine)
        return {uid: self.pictures[uid] for uid in uids}

    def roles(self, names: list[str] | None = None, compare: Compare | None = None) -> dict[str, RoleGuess]:
        key = (frozenset(self.facts if names is None else names), compare is None)
        if key not in self.decided:
            found = assign_roles([self.facts[n] for n in sorted(key[0])], compare)
            self.decided[key] = {self.names[uid]: guess for uid, guess in found.items()}
        return self.decided[key]


@pytest.fixture(scope="module")
def tumour(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    where = unpack(data_dir / "dicom" / "tumour-study-philips.tar.xz", tmp_path_factory.mktemp("tumour"))
    folders = sorted(p for p in where.rglob("s*") if p.is_dir())
    return Study(folders)


def test_all_nine_roles_are_right(tumour: Study) -> None:
    found = tumour.roles(compare=tumour.compare)
    assert {n: (g.role, g.after_contrast) for n, g in found.items()} == NINE
    assert not [n for n, g in found.items() if g.ambiguous_with]
    assert all(g.confidence >= 0.7 for g in found.values())


def test_headers_alone_leave_open_only_what_they_do_not_tell(tumour: Study) -> None:
    found = tumour.roles()
    assert {n: g.role for n, g in found.items()} == {n: role for n, (role, _) in NINE.items()}
    assert [n for n, g in found.items() if g.ambiguous_with] == ["s1103_t1_3d_fs_axial_post"]


def test_reformats_stay_candidates_at_lower_confidence(tumour: Study) -> None:
    found = tumour.roles(compare=tumour.compare)
    assert found["s1103_t1_3d_fs_axial_post"].confidence < found["s1201_t1_fs_axial_post"].confidence
    assert any("reformat" in r for r in found["s0502_t1_3d_axial_pre"].reasons)


def test_the_pictures_know_the_pair_and_the_series_between(tumour: Study) -> None:
    uids = {n: s.series_uid for n, s in tumour.facts.items()}
    wanted = ["s0502_t1_3d_axial_pre", "s0901_t1_fs_axial_pre", "s1103_t1_3d_fs_axial_post", "s1201_t1_fs_axial_post"]
    early, before, between, after = (tumour.compare([uids[n]])[uids[n]] for n in wanted)
    assert compare_t1(before, after) is Enhancement.SECOND
    assert compare_t1(after, before) is Enhancement.FIRST
    assert follows_contrast(between, before, after) is True
    assert follows_contrast(early, before, after) is False


SILENCED = ("SeriesDescription", "ProtocolName", "EchoTime", "RepetitionTime", "InversionTime", "ScanningSequence")


@pytest.mark.parametrize(
    ("silent", "role"),
    [
        ("s1301_flair_axial_post", "flair"),
        ("s0701_flair_axial", "flair"),
        ("s0401_t2_tse_axial", "other?"),
        ("s0502_t1_3d_axial_pre", "other?"),
    ],
)
def test_a_silent_series_is_named_only_by_a_picture_like_a_known_one(tumour: Study, silent: str, role: str) -> None:
    stripped = {k: v for k, v in tumour.facts[silent].attributes.items() if k not in SILENCED}
    series = [
        s if name != silent else SeriesFacts(s.series_uid, s.study_uid, stripped) for name, s in tumour.facts.items()
    ]
    guess = assign_roles(series, tumour.compare)[tumour.facts[silent].series_uid]
    assert guess.role + ("?" if guess.ambiguous_with else "") == role
    assert assign_roles(series)[tumour.facts[silent].series_uid].ambiguous_with


def test_the_study_is_de_identified_and_so_never_goes_to_fhir(tumour: Study) -> None:
    for series in tumour.facts.values():
        assert "de-identified" in {hold.code for hold in publication_gate(series, default_issuer="H")}


BOOK = parse_routes(
    """
schema_version: 1
routes:
  - name: tumour
    when: {attribute: Modality, equals: MR}
    role_sets: [[t1c, flair], [flair]]
    model: m
    result_family: brain
  - name: brain-flair
    when: {attribute: BodyPartExamined, in: [BRAIN]}
    role_sets: [[flair]]
    model: brain-flair
    result_family: flair
"""
)


@pytest.mark.parametrize("with_pictures", [True, False])
def test_sampled_orders_of_arrival_end_in_one_case(tumour: Study, with_pictures: bool) -> None:
    """With pictures the nearest series after contrast is taken; without them it stays open and the sure one is."""
    compare = tumour.compare if with_pictures else None
    t1c = "s1103_t1_3d_fs_axial_post" if with_pictures else "s1201_t1_fs_axial_post"
    expected = {"brain": {"t1c": t1c, "flair": "s0701_flair_axial"}, "flair": {"flair": "s0701_flair_axial"}}
    chance = random.Random(9)
    names = sorted(tumour.facts)
    for turn in range(6):
        order = chance.sample(names, len(names))
        pauses = [turn % 3 == 1 or (turn % 3 == 2 and chance.random() < 0.4) for _ in order]
        cases = _arrive(tumour, order, compare, pauses)
        for family, chosen in expected.items():
            current = [c for c in cases if c.result_family == family and not c.is_superseded]
            assert [{r: names[i] for r, i in c.revisions.items()} for c in current] == [chosen], order


def _arrive(study: Study, order: list[str], compare: Compare | None, pauses: list[bool]) -> list[PastCase]:
    names, cases, here = sorted(study.facts), list[PastCase](), list[str]()
    for name, pause in zip(order, pauses, strict=True):
        here.append(name)
        roles = study.roles(here, compare)
        closed = tuple(ClosedSeries(study.facts[n], roles[n], names.index(n)) for n in here)
        for is_quiet in (False, True) if pause or len(here) == len(order) else (False,):
            for decision in decide(BOOK, StudyState("s", closed, is_quiet=is_quiet, cases=tuple(cases))):
                if decision.verb is Verb.RUN and decision.case is not None:
                    cases = [
                        c
                        if c.id != decision.supersedes
                        else PastCase(c.id, c.route, c.result_family, c.revisions, c.set_rank, True)
                        for c in cases
                    ]
                    spec = decision.case
                    cases.append(
                        PastCase(len(cases) + 1, spec.route, spec.result_family, spec.revisions, spec.set_rank)
                    )
    return cases


def test_the_shipped_route_reads_the_flair_before_contrast(tumour: Study) -> None:
    book = load_routes(REPOSITORY / "config" / "routes.yaml")
    roles = tumour.roles(compare=tumour.compare)
    closed = tuple(ClosedSeries(s, roles[n], i) for i, (n, s) in enumerate(tumour.facts.items()))
    (decision,) = [d for d in decide(book, StudyState("s", closed)) if d.result_family == "brain-abnormality"]
    assert decision.case is not None
    assert decision.case.route == "brain-tumour"
    assert tumour.names[decision.case.series["flair"]] == "s0701_flair_axial"
    told = explain(book, list(tumour.facts.values()), {s.series_uid: roles[n] for n, s in tumour.facts.items()})
    (standing_in,) = told.if_refused["brain-abnormality"]
    assert standing_in.route == "brain-flair"
    assert tumour.names[standing_in.series["flair"]] == "s0701_flair_axial"


def test_explain_prints_every_clause_and_the_decision(tumour: Study) -> None:
    folder = next(iter(tumour.files.values()))[0].parent.parent
    arguments = ["routes", "explain", str(folder), "--routes", str(REPOSITORY / "config" / "routes.yaml")]
    said = CliRunner().invoke(app, [*arguments, "--json"])
    assert said.exit_code == 0, said.output
    (study,) = json.loads(said.stdout.splitlines()[-1])["studies"]
    assert {s["number"]: s["role"] for s in study["series"]} == {
        str(int(name[1:5])): role for name, (role, _) in NINE.items()
    }
    book = load_routes(REPOSITORY / "config" / "routes.yaml")
    assert len(study["rules"]) == 9 * len(book.routes)
    assert all(rule["when"]["parts"] for rule in study["rules"])
    (decision,) = [d for d in study["decisions"] if d["result_family"] == "brain-abnormality"]
    assert decision["case"]["model"] == "brain-tumour"
    assert [case["model"] for case in decision["if_refused"]] == ["brain-flair"]
    words = CliRunner().invoke(app, arguments)
    assert words.exit_code == 0
    assert "NumberOfSlices at least 10; found: 3" in words.stdout
    assert "flair: series 701" in words.stdout
    assert "if its model refuses the images: brain-flair by route brain-flair (flair: series 701)" in words.stdout
    assert "TUM-0001" not in words.stdout + said.stdout
    assert "TUMOUR^ONE" not in words.stdout + said.stdout


def test_explain_with_a_wrong_file_or_an_empty_folder(tmp_path: Path) -> None:
    wrong = tmp_path / "r.yaml"
    wrong.write_text("schema_version: 1\nrouts: []\n")
    refused = CliRunner().invoke(app, ["routes", "explain", str(tmp_path), "--routes", str(wrong)])
    assert refused.exit_code == 5
    good = str(REPOSITORY / "config" / "routes.yaml")
    empty = CliRunner().invoke(app, ["routes", "explain", str(tmp_path), "--routes", good, "--json"])
    assert empty.exit_code == 3
    assert json.loads(empty.stdout.splitlines()[-1])["refusal"]["code"] == "input-empty"


OTHERS = {
    "siemens-prisma-t1-sag-HFS": "t1?",
    "united-imaging-t1-3d-sag": "t1?",
    "ge-signa-pd-axial": "pd",
    "ge-genesis-flair-single": "flair",
    "siemens-xa-t1-jpeg-lossless": "t1?",
}


def test_other_makers_series(data_dir: Path, tmp_path: Path) -> None:
    where = unpack(data_dir / "dicom" / "vendors.tar.xz", tmp_path)
    for name, role in OTHERS.items():
        (folder,) = (p for p in where.rglob(name) if p.is_dir())
        found = facts([read_header(p) for p in sorted(folder.iterdir()) if p.is_file()])
        (guess,) = assign_roles([found]).values()
        assert guess.role + ("?" if guess.ambiguous_with else "") == role, (name, guess)


def test_enhanced_maps_are_no_sequence(data_dir: Path, tmp_path: Path) -> None:
    where = unpack(data_dir / "dicom" / "enhanced-multiframe.tar.xz", tmp_path)
    found: list[tuple[SeriesFacts, RoleGuess]] = []
    for file in sorted(p for p in where.rglob("siemens-xa30/*") if p.is_file()):
        series = facts([read_header(file)])
        found.append((series, next(iter(assign_roles([series]).values()))))
    assert sorted(g.role for _, g in found) == ["adc", "derived", "derived"]
    assert {s.attributes["NumberOfSlices"] for s, _ in found} == {39}


WEAKEST = ("Brats18_2013_11_1", "Brats18_TCIA10_628_1")
"""Of the nine studies these have the least enhancement."""


def brats(data_dir: Path, names: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Appearance]]]:
    for folder in (data_dir / "brain" / "brats" / name for name in names):
        pictures = {}
        for kind in ("t1", "t1ce"):
            raw = bz2.decompress((folder / f"{folder.name}_{kind}.nii.bz2").read_bytes())
            image = nibabel.Nifti1Image.from_bytes(raw)
            array = np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0)
            pictures[kind] = appearance(array, Affine.from_nifti(image.affine))
        yield folder.name, pictures


def test_the_pictures_know_t1_from_t1ce(data_dir: Path) -> None:
    seen = {name: compare_t1(p["t1"], p["t1ce"]) for name, p in brats(data_dir, WEAKEST)}
    assert set(seen.values()) == {Enhancement.SECOND}, seen


@pytest.mark.long
def test_the_pictures_know_t1_from_t1ce_in_all_nine_studies(data_dir: Path) -> None:
    names = tuple(sorted(p.name for p in (data_dir / "brain" / "brats").iterdir() if p.is_dir()))
    seen = {name: compare_t1(p["t1"], p["t1ce"]) for name, p in brats(data_dir, names)}
    assert len(seen) == 9
    assert set(seen.values()) == {Enhancement.SECOND}, seen
