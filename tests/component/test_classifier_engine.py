"""A classifier in its child: answers and refusals side by side, the site's own threshold, the same in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_classifier import make_tiny_classifier
from fixtures_photo import drawn_lesion

from ai_engine.findings import Code
from ai_engine.host import ModelHost
from ai_engine.packages import load_package
from ai_engine.packages.classification import OperatingPoint
from ai_engine.packages.site import SiteOutput, SiteOverride, write_override
from ai_engine.pictures import InputPicture, PictureAnswer
from ai_engine.prediction import EngineSettings
from dicom_node.refusals import Refusal, RefusalCode, Refused

pytestmark = pytest.mark.component

SETTINGS = EngineSettings(device="cpu", precision="f32", threads=1)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_classifier(tmp_path_factory.mktemp("models"), description={"patient": {"age_years": [18, 100]}})


@pytest.fixture(scope="module")
def host(package: Path) -> Iterator[ModelHost]:
    with ModelHost(package, SETTINGS) as started:
        yield started


def picture(seed: int = 0, **changes) -> InputPicture:
    return InputPicture(**{"pixels": drawn_lesion(seed=seed), "declared": "dermoscopic", **changes})


def values(answer: PictureAnswer | Refusal) -> list[float]:
    assert isinstance(answer, PictureAnswer)
    return [o.measurements[0].value for o in answer.findings.observations]


def test_answers_and_refusals_stand_in_the_order_of_the_pictures(host: ModelHost) -> None:
    site = Code("74160004", "SCT", "Skin of chest")
    found = host.classify(
        [
            picture(body_site=site),
            picture(declared="plain"),
            picture(modality="MR"),
            picture(age_years=9.0),
            picture(pixels=drawn_lesion(60, 80)),
            picture(1),
        ]
    )
    codes = [one.code if isinstance(one, Refusal) else None for one in found]
    assert codes == [
        None,
        RefusalCode.PICTURE_KIND_UNSUPPORTED,
        RefusalCode.MODALITY_UNSUPPORTED,
        RefusalCode.OUT_OF_DISTRIBUTION,
        RefusalCode.IMAGE_TOO_SMALL,
        None,
    ]
    first = found[0]
    assert isinstance(first, PictureAnswer)
    malignant, melanoma = first.findings.observations
    assert (malignant.key, melanoma.key) == ("malignant", "melanoma")
    assert malignant.site == site and malignant.threshold == 50.0
    assert malignant.measurements[0].unit.value == "%"
    assert malignant.category is not None
    assert (malignant.category.value == "AI-OP-ABOVE") == (malignant.measurements[0].value >= 50)
    assert first.heat_map is not None and first.heat_map.shape == (300, 400) and first.heat_map.max() == 255
    assert any("not used by the model" in note for note in first.findings.notes)
    assert first.findings.regions == ()


def test_a_picture_says_the_same_alone_and_in_company(host: ModelHost) -> None:
    alone = values(host.classify([picture(3)])[0])
    together = values(host.classify([picture(1), picture(2), picture(3), picture(4), picture(5)])[2])
    assert together == pytest.approx(alone, abs=1e-6)


def test_an_uncalibrated_output_is_a_score_and_never_in_per_cent(tmp_path: Path, package: Path) -> None:
    outputs = [
        {**output, "calibration": {"method": "none"}}
        for output in load_package(package, weights=False).classification.model_dump(mode="json", exclude_none=True)[
            "outputs"
        ]
    ]
    folder = make_tiny_classifier(tmp_path, description={"outputs": outputs})
    with ModelHost(folder, SETTINGS) as host:
        (answer,) = host.classify([picture()])
    assert isinstance(answer, PictureAnswer)
    (first, _) = answer.findings.observations
    assert (first.measurements[0].key, first.measurements[0].unit.value) == ("score", "1")
    assert 0 < first.measurements[0].value < 1 and first.threshold == 0.5


def test_the_sites_own_threshold_moves_the_side_and_stands_in_the_settings(
    tmp_path: Path, package: Path, host: ModelHost
) -> None:
    (value, _) = values(host.classify([picture()])[0])
    opened = load_package(package, weights=False)
    threshold = 0.99 if value >= 50 else 0.01
    override = SiteOverride(
        format=1,
        name=opened.description.name,
        version=opened.description.version,
        digest_sha256=opened.digest_sha256,
        outputs={
            "malignant": SiteOutput(
                threshold=threshold,
                operating_point=OperatingPoint(sensitivity=0.8, specificity=0.7, n=12, data="the site's own"),
            )
        },
        population="12 pictures of a test",
    )
    path = tmp_path / "override.json"
    digest = write_override(override, path)
    with ModelHost(package, EngineSettings(**{**vars(SETTINGS), "site_override": str(path)})) as own:
        (answer,) = own.classify([picture()])
    assert isinstance(answer, PictureAnswer)
    assert ("site_override", digest) in answer.findings.model.settings
    assert values(answer)[0] == pytest.approx(value, abs=1e-9), "the number is the package's"
    first = answer.findings.observations[0]
    assert first.threshold == pytest.approx(100 * threshold)
    assert first.category is not None and (first.category.value == "AI-OP-ABOVE") == (threshold < 0.5)
    write_override(override.model_copy(update={"digest_sha256": "0" * 64}), path)
    with (
        pytest.raises(Refused, match="model-untrusted"),
        ModelHost(package, EngineSettings(**{**vars(SETTINGS), "site_override": str(path)})) as stranger,
    ):
        stranger.start()
