"""Sequence roles: words in five languages, physics, contrast, and what stays open."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from routing_studies import FLAIR, SPIN_ECHO_T1, T2, VOLUME_T1, nine, series

from ai_engine.geometry import Affine
from dicom_node.routing.appearance import Appearance, Enhancement, appearance, compare_t1, follows_contrast
from dicom_node.routing.idioms import contrast, fold, special, weighting
from dicom_node.routing.kinds import kinds
from dicom_node.routing.roles import assign_roles
from dicom_node.words import RoleGuess, SeriesFacts

pytestmark = pytest.mark.unit


def roles(*found: SeriesFacts, compare: Any = None) -> dict[int, RoleGuess]:
    return {int(uid.rsplit(".", 1)[1]): guess for uid, guess in assign_roles(found, compare).items()}


def said(*found: SeriesFacts, compare: Any = None) -> dict[int, str]:
    """Role by series number, with a question mark where it is open."""
    return {n: g.role + ("?" if g.ambiguous_with else "") for n, g in roles(*found, compare=compare).items()}


# -- words ----


@pytest.mark.parametrize(
    "text",
    ["T1 post Gd", "AX T1 +C", "SAG T1 C+", "T1 W CONTRAST", "T1_POST", "T1 Gd", "t1_vibe_fs_km", "T1 nach KM",
     "T1 mit KM tra", "T1 con contraste", "T1 TRAS CIV", "T1 C/C", "T1 post-contraste", "T1 después de contraste",
     "T1 après injection", "T1 avec gado", "T1 APRES GADO", "T1 pós contraste", "T1 com contraste", "T1ce",
     "MPRAGE +Gd", "T1 enhanced", "T1 postcontrast", "AX T1 FS POST"],
)  # fmt: skip
def test_words_for_after_contrast(text: str) -> None:
    assert contrast(fold(text)) is True


@pytest.mark.parametrize(
    "text",
    ["T1 pre", "AX T1 PRE CONTRAST", "T1 w/o contrast", "T1 without gad", "T1 non-contrast", "AX T1 WO",
     "T1 unenhanced",
     "T1 ohne KM", "t1_mprage_sag_nativ", "T1 vor KM", "T1 sin contraste", "T1 S/C", "T1 simple", "T1 sans injection",
     "T1 avant injection", "T1 sem contraste", "T1 before contrast", "T1 precontrast"],
)  # fmt: skip
def test_words_for_before_contrast(text: str) -> None:
    assert contrast(fold(text)) is False


@pytest.mark.parametrize(
    "text",
    ["T1W_SE-TRA_FS", "AX T1", "T1 POST OP", "T1 posterior fossa", "AX T1 POST FOSSA", "T1 pre-op", "T1 pre-sat",
     "pre and post contrast", "T1 W/WO", "T1 W AND WO CONTRAST",
     "T1 before and after contrast", "T1 postural", "sagT1w",
     "HEAD POSITION", "Localizer", ""],
)  # fmt: skip
def test_words_that_say_nothing_of_contrast(text: str) -> None:
    assert contrast(fold(text)) is None


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("T2W_FLAIR_TRA", "flair"), ("t2_tirm_tra_dark-fluid", "flair"), ("t2_space_da-fl_sag", "flair"),
        ("FLAIR", "flair"),
        ("T1 FLAIR SAG", "t1"), ("VsT1W_3D_ISO SENSE", "t1"), ("anat-T1w_acq-tfl", "t1"), ("3D MPRAGE", "t1"),
        ("SAG BRAVO", "t1"), ("T2W_TSE_TRA", "t2"), ("AX T2 PROPELLER", "t2"),
        ("FSE PD AXIAL OBL", "pd"), ("DP TRA", "pd"),
        ("PD+T2", None), ("T10 vertebra", None), ("AX", None),
    ],
)  # fmt: skip
def test_words_for_the_weighting(text: str, role: str | None) -> None:
    assert weighting(fold(text)) == role


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("Survey__head_only", "localizer"), ("Lokalizer", "localizer"), ("3-plane loc", "localizer"),
        ("REPÉRAGE", "localizer"),
        ("AAHead_Scout", "localizer"), ("localizador", "localizer"), ("ep2d_diff_3scan_trace_p2_ADC", "adc"),
        ("dADC map", "adc"), ("DWI b1000", "dwi"), ("difusión", "dwi"), ("SWI_Images", "swi"), ("VEN_BOLD", "swi"),
        ("T2* GRE", "t2star"), ("TOF 3D", "other"), ("AX SUB T1", "derived"),
        ("SWI mIP", "derived"), ("rCBV", "derived"),
        ("ep2d_perf", "other"), ("STIR cor", "other"), ("T1W_SE", None), ("T2W_TSE_DRIVE", None),
    ],
)  # fmt: skip
def test_words_for_what_is_no_plain_structural_series(text: str, role: str | None) -> None:
    found = special(fold(text))
    assert (found[0] if found else None) == role


# -- physics ----


@pytest.mark.parametrize(
    ("header", "role"),
    [
        (SPIN_ECHO_T1, "t1?"),
        (T2, "t2"),
        (FLAIR, "flair"),
        (VOLUME_T1, "t1?"),
        ({"ScanningSequence": ["GR", "IR"], "EchoTime": 2.4, "RepetitionTime": 1800.0, "InversionTime": 900.0}, "t1?"),
        ({"ScanningSequence": ["SE", "IR"], "EchoTime": 20.0, "RepetitionTime": 2200.0, "InversionTime": 860.0}, "t1?"),
        ({"ScanningSequence": ["GR"], "EchoTime": 2.46, "RepetitionTime": 300.0, "FlipAngle": 80.0}, "t1?"),
        ({"ScanningSequence": ["SE"], "EchoTime": 22.0, "RepetitionTime": 2300.0}, "pd"),
        (
            {"ScanningSequence": ["SE", "IR"], "EchoTime": 388.0, "RepetitionTime": 5000.0, "InversionTime": 1650.0},
            "flair",
        ),
        (
            {"ScanningSequence": ["SE", "IR"], "EchoTime": 60.0, "RepetitionTime": 4000.0, "InversionTime": 150.0},
            "other",
        ),
        (
            {"ScanningSequence": ["EP", "SE"], "EchoTime": 80.0, "RepetitionTime": 5000.0, "DiffusionBValue": 1000.0},
            "dwi",
        ),
        ({"ScanningSequence": ["EP", "GR"], "EchoTime": 30.0, "RepetitionTime": 2000.0}, "other"),
        ({"ScanningSequence": ["GR"], "EchoTime": 20.0, "RepetitionTime": 700.0, "FlipAngle": 20.0}, "t2star"),
        ({"ScanningSequence": ["GR"], "EchoTime": 20.0, "RepetitionTime": 28.0, "MRAcquisitionType": "3D"}, "swi"),
        ({"EchoTime": 100.0, "RepetitionTime": 5000.0}, "t2"),
        ({"ScanningSequence": ["SE"], "EchoTime": 159.0, "RepetitionTime": 10002.0}, "t2?"),
        ({"ScanningSequence": ["SE"], "EchoTime": 159.0, "RepetitionTime": 10002.0, "ProtocolName": "FLAIR"}, "flair"),
        ({"ScanningSequence": ["SE"], "EchoTime": 159.0, "RepetitionTime": 10002.0, "ProtocolName": "T2"}, "t2"),
        ({"ScanningSequence": ["SE"], "EchoTime": 120.0, "RepetitionTime": 3000.0, "ProtocolName": "FLAIR"}, "t2?"),
        ({"EchoTime": 60.0, "RepetitionTime": 1500.0}, "other?"),
        ({"ScanningSequence": ["RM"]}, "other?"),
        ({}, "other?"),
    ],
)
def test_acquisition_alone(header: dict[str, Any], role: str) -> None:
    assert said(series(1, 1, **header)) == {1: role}


def test_words_and_physics_that_contradict_leave_it_open() -> None:
    guess = roles(series(1, 1, SeriesDescription="AX T2", **FLAIR))[1]
    assert (guess.role, guess.ambiguous_with) == ("flair", ("t2",))
    assert guess.reasons[-1] == "words and acquisition times contradict each other"


def test_a_reformat_stays_a_candidate_at_lower_confidence() -> None:
    plain = roles(series(1, 1, SeriesDescription="FLAIR", **FLAIR))[1]
    reformat = roles(series(1, 1, SeriesDescription="FLAIR", ImageType=["DERIVED", "PRIMARY", "MPR"], **FLAIR))[1]
    assert reformat.role == plain.role == "flair"
    assert 0.5 < reformat.confidence < plain.confidence
    assert not kinds(series(1, 1, ImageType=["ORIGINAL", "PRIMARY", "PROJECTION IMAGE", "M", "FFE"]))


# -- contrast ----


def test_a_single_t1_without_any_sign_is_open() -> None:
    guess = roles(series(1, 1, **SPIN_ECHO_T1))[1]
    assert (guess.role, guess.ambiguous_with, guess.after_contrast) == ("t1", ("t1c",), None)


def test_tag_and_words_decide() -> None:
    assert said(series(1, 1, ContrastBolusAgent="Gadovist", **SPIN_ECHO_T1)) == {1: "t1c"}
    assert said(series(1, 1, HasContrastBolusSequence=True, **SPIN_ECHO_T1)) == {1: "t1c"}
    assert said(series(1, 1, ContrastBolusAgent="NO", **SPIN_ECHO_T1)) == {1: "t1"}
    assert said(series(1, 1, SeriesDescription="T1 post Gd", **SPIN_ECHO_T1)) == {1: "t1c"}
    assert said(series(1, 1, ProtocolName="T1 ohne KM", **SPIN_ECHO_T1)) == {1: "t1"}


def test_tag_against_words_is_open() -> None:
    guess = roles(series(1, 1, ContrastBolusAgent="Gadovist", SeriesDescription="T1 pre", **SPIN_ECHO_T1))[1]
    assert guess.ambiguous_with
    assert "contradict" in guess.reasons[-1]


def test_the_same_acquisition_twice_is_before_and_after() -> None:
    pair = (series(9, 42, **SPIN_ECHO_T1), series(12, 54, **SPIN_ECHO_T1))
    assert said(*pair) == {9: "t1", 12: "t1c"}
    assert said(*reversed(pair)) == {9: "t1", 12: "t1c"}
    three = (*pair, series(15, 60, **SPIN_ECHO_T1))
    assert said(*three) == {9: "t1", 12: "t1c", 15: "t1c"}


def test_no_pair_without_equal_acquisition_or_without_time() -> None:
    first = series(9, 42, **SPIN_ECHO_T1)
    for other in (
        series(12, 54, **{**SPIN_ECHO_T1, "Plane": "coronal"}),
        series(12, 54, **{**SPIN_ECHO_T1, "EchoTime": 10.0}),
        series(12, 54, **SPIN_ECHO_T1, ScanOptions=["FS"]),
        series(12, 54, **SPIN_ECHO_T1, SliceStepMm=3.0),
        series(12, 54, **SPIN_ECHO_T1, SeriesDescription="other"),
        series(12, 42, **SPIN_ECHO_T1),
        series(12, None, **SPIN_ECHO_T1),
    ):
        assert said(first, other) == {9: "t1?", 12: "t1?"}


def test_nearly_equal_times_make_a_pair() -> None:
    assert said(
        series(9, 42, **{**SPIN_ECHO_T1, "RepetitionTime": 600.0}),
        series(12, 54, **{**SPIN_ECHO_T1, "RepetitionTime": 628.0}),
    ) == {9: "t1", 12: "t1c"}


def test_a_tag_on_every_t1_does_not_undo_the_pair() -> None:
    tagged = [series(n, n, ContrastBolusAgent="Gd", **SPIN_ECHO_T1) for n in (9, 12)]
    assert said(*tagged) == {9: "t1?", 12: "t1c"}


def test_the_plain_twin_of_a_marked_series_is_before_contrast() -> None:
    marked = series(6, 54, SeriesDescription="t1_se_tra +GD", ContrastBolusAgent="Gd", **SPIN_ECHO_T1)
    assert said(series(2, 42, SeriesDescription="t1_se_tra", **SPIN_ECHO_T1), marked) == {2: "t1", 6: "t1c"}


def test_an_unmarked_t1_before_a_marked_one_is_before_contrast() -> None:
    marked = series(6, 54, SeriesDescription="T1 AX POST", **SPIN_ECHO_T1)
    assert said(series(2, 42, SeriesDescription="SAG T1", **VOLUME_T1), marked) == {2: "t1", 6: "t1c"}
    assert said(series(9, 60, SeriesDescription="SAG T1", **VOLUME_T1), marked) == {9: "t1c", 6: "t1c"}
    assert said(series(2, None, SeriesDescription="SAG T1", **VOLUME_T1), marked) == {2: "t1?", 6: "t1c"}


def test_what_is_known_bounds_the_others_in_time() -> None:
    found = [
        series(3, 10, **VOLUME_T1),
        series(9, 42, SeriesDescription="T1 pre", **SPIN_ECHO_T1),
        series(10, 45, **VOLUME_T1, SliceStepMm=1.0),
        series(12, 54, SeriesDescription="T1 post", **SPIN_ECHO_T1),
        series(14, 60, **VOLUME_T1, SliceStepMm=2.0),
        series(7, 38, **FLAIR),
        series(11, 48, **FLAIR),
        series(13, 59, **FLAIR),
    ]
    assert said(*found) == {3: "t1", 9: "t1", 10: "t1?", 12: "t1c", 14: "t1c", 7: "flair", 11: "flair", 13: "flair"}
    after = {n: g.after_contrast for n, g in roles(*found).items()}
    assert (after[7], after[11], after[13], after[10]) == (False, None, True, None)


def test_the_nine_series_from_headers_alone() -> None:
    expected = {
        101: "localizer", 303: "adc", 401: "t2", 502: "t1", 701: "flair",
        901: "t1", 1103: "t1c?", 1201: "t1c", 1301: "flair",
    }  # fmt: skip
    chance = random.Random(1)
    for _ in range(20):
        order = nine()
        chance.shuffle(order)
        assert said(*order) == expected
    guesses = roles(*nine())
    assert guesses[1301].after_contrast is True
    assert guesses[701].after_contrast is False
    assert guesses[1201].confidence > guesses[1103].confidence


def test_every_subset_is_decided_without_error_and_a_lone_t1_is_never_sure() -> None:
    for size in (1, 2, 3):
        for some in itertools.combinations(nine(), size):
            found = said(*some)
            t1 = [n for n in found if n in (502, 901, 1103, 1201)]
            if len(t1) == 1:
                assert found[t1[0]].endswith("?")


def test_reasons_never_repeat_what_people_wrote() -> None:
    marked = series(
        1, 1, SeriesDescription="T1 post MARKER", ProtocolName="MARKER", ContrastBolusAgent="MARKER", **SPIN_ECHO_T1
    )
    assert "MARKER" not in str(roles(marked))


def test_two_studies_at_once_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="one study"):
        assign_roles([series(1, 1), SeriesFacts("9", "another", {})])


# -- pictures ----

SHAPE = (40, 60, 50)


def head(*, vessels: float = 0.0, seed: int = 0, shift_mm: float = 0.0, gain: float = 1.0) -> Appearance:
    """An ellipsoid with a bright rim and tissue; `vessels` brightens tubes in it, as contrast does."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt((z / 0.9) ** 2 + (y / 0.9) ** 2 + (x / 0.85) ** 2)
    image = np.where(radius < 0.85, 100.0 + 25.0 * np.sin(5 * x) * np.cos(4 * y) * np.sin(3 * z + 1), 0.0)
    image = np.where((radius >= 0.85) & (radius < 1.0), 60.0, image)
    tubes = (((x % 0.4) < 0.1) & ((y % 0.5) < 0.12) & (radius < 0.8)) | (np.hypot(x, y) < 0.1) & (radius < 0.8)
    image = image + vessels * tubes
    noise = np.random.default_rng(seed).normal(0.0, 3.0, SHAPE)
    affine = Affine.from_axes([-90.0 + shift_mm, -110.0, -70.0 + shift_mm], np.eye(3)[::-1], [4.5, 3.8, 3.7])
    return appearance(np.maximum(image + noise, 0.0) * gain, affine)


def test_enhancement_is_seen_in_either_order() -> None:
    before, after = head(seed=1), head(vessels=70.0, seed=2, shift_mm=1.0, gain=0.7)
    assert compare_t1(before, after) is Enhancement.SECOND
    assert compare_t1(after, before) is Enhancement.FIRST
    assert compare_t1(before, head(seed=3, gain=1.4)) is Enhancement.NONE
    assert compare_t1(before, head(seed=3, shift_mm=1.0, gain=1.4)) in (Enhancement.NONE, Enhancement.UNCLEAR)


def test_nothing_is_said_of_pictures_that_hardly_overlap() -> None:
    far = head(seed=1, shift_mm=400.0)
    assert compare_t1(head(), far) is Enhancement.UNCLEAR
    assert follows_contrast(far, head(), head(vessels=70.0)) is None


def test_a_third_series_is_held_against_the_pair() -> None:
    before, after = head(seed=1), head(vessels=70.0, seed=2)
    assert follows_contrast(head(vessels=60.0, seed=4, gain=0.5), before, after) is True
    assert follows_contrast(head(seed=5, gain=0.5), before, after) is False
    assert follows_contrast(head(vessels=60.0, seed=6), before, head(seed=7)) is None


def test_pictures_confirm_or_deny_a_pair() -> None:
    pair = (series(9, 42, **SPIN_ECHO_T1), series(12, 54, **SPIN_ECHO_T1))
    plain, bright = head(seed=1), head(vessels=70.0, seed=2)

    def showing(first: Appearance, second: Appearance) -> Any:
        pictures = {pair[0].series_uid: first, pair[1].series_uid: second}
        return lambda uids: {uid: pictures[uid] for uid in uids}

    assert said(*pair, compare=showing(plain, bright)) == {9: "t1", 12: "t1c"}
    assert said(*pair, compare=showing(bright, plain)) == {9: "t1c?", 12: "t1?"}
    assert said(*pair, compare=showing(plain, head(seed=3))) == {9: "t1?", 12: "t1c?"}
    assert roles(*pair, compare=showing(plain, bright))[12].confidence > roles(*pair)[12].confidence
    assert said(*pair, compare=lambda uids: {}) == said(*pair)


def test_pictures_are_asked_for_only_where_headers_are_silent() -> None:
    asked: list[str] = []

    def compare(uids: list[str]) -> dict[str, Appearance]:
        asked.extend(uids)
        return {}

    roles(
        series(1, 1, SeriesDescription="T1 pre", **SPIN_ECHO_T1),
        series(2, 20, SeriesDescription="T1 post", **SPIN_ECHO_T1),
        series(3, 30, **FLAIR),
        series(4, 40, **T2),
        compare=compare,
    )
    assert asked == []
    roles(*nine(), compare=compare)
    assert len(asked) == len(set(asked))
    assert set(asked) == {"1.2.3.901", "1.2.3.1201", "1.2.3.1103"}


def test_a_picture_survives_storage() -> None:
    picture = head(vessels=70.0)
    again = Appearance.from_json(picture.to_json())
    assert again.corner == picture.corner
    assert np.array_equal(np.isnan(again.cells), np.isnan(picture.cells))
    assert np.nanmax(np.abs(again.cells - picture.cells)) <= 1.0
    assert compare_t1(Appearance.from_json(head(seed=1).to_json()), again) is Enhancement.SECOND


@pytest.mark.parametrize(
    "change", [{"step_mm": 3.0}, {"shape": [1, 2]}, {"shape": [1, 2, 3]}, {"shape": [900, 900, 900]}, {"cells": "AAAA"}]
)
def test_a_stored_picture_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"stored picture|base64|padding"):
        Appearance.from_json({**head().to_json(), **change})


def test_cells_are_where_the_voxels_are() -> None:
    """A bright block keeps its place in patient space, whatever the order and direction of the array's axes."""
    array = np.zeros(SHAPE)
    array[10:16, 30:40, 5:15] = 100.0
    affine = Affine.from_axes([-80.0, -100.0, -60.0], np.eye(3)[::-1], [4.0, 3.0, 3.0])
    centre = affine.to_patient([12.5, 34.5, 9.5])
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            moved = np.transpose(array, axes)[tuple(slice(None, None, -1) if f else slice(None) for f in flips)]
            picture = appearance(moved, affine.rearranged(axes, flips, SHAPE))
            cells = np.nan_to_num(picture.cells)
            index = np.array(np.nonzero(cells > 127)).mean(axis=1)
            found = (index + picture.corner)[::-1] * 4.0
            assert np.abs(found - centre).max() < 2.0


def test_every_volume_gives_a_picture_of_bounded_size() -> None:
    plain = Affine.from_axes([0, 0, 0], np.eye(3)[::-1], [4, 4, 4])
    empty = appearance(np.zeros(SHAPE), plain)
    assert compare_t1(empty, head()) is Enhancement.UNCLEAR
    long_affine = Affine.from_axes([0, 0, -700.0], np.eye(3)[::-1], [40, 4, 4])
    tall = appearance(np.arange(np.prod(SHAPE)).reshape(SHAPE), long_affine)
    assert tall.cells.shape == (100, 60, 50)
    middle_mm = (tall.corner[0] + 49.5) * 4.0
    assert abs(middle_mm - (-700.0 + 39 * 40 / 2)) <= 4.0
    assert appearance(np.ones((1, 8, 8)), plain).cells.shape == (1, 8, 8)
    with pytest.raises(ValueError, match=r"\(S, R, C\)"):
        appearance(np.zeros((4, 4)), plain)
