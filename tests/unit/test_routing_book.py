"""The route file: what is refused, with its line; what is shipped; what is documented."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from dicom_node.routing.attributes import ROUTE_ATTRIBUTES
from dicom_node.routing.book import RoutesRefused, load_routes, parse_routes
from dicom_node.routing.clauses import COMBINATIONS, COMPARISONS
from dicom_node.routing.gate import HOLDS
from dicom_node.routing.route import Criterion, Exclusion, Route, RouteBook
from dicom_node.words import Publish

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parents[2]

GOOD = """\
schema_version: 1
routes:
  - name: brain
    when:
      all:
        - {attribute: Modality, equals: MR}
        - {attribute: SeriesDescription, matches: flair}
    role_sets: [[t1ce, flair], [flair]]
    model: brain-flair@stable
    result_family: brain
"""


def test_a_new_route_publishes_nothing() -> None:
    route = parse_routes(GOOD).by_name("brain")
    assert route.publish is Publish.NOTHING
    assert route.destinations == ()
    assert route.priority_for("ANY") == "routine"


def test_t1ce_is_another_name_of_t1c() -> None:
    assert parse_routes(GOOD).routes[0].role_sets[0] == ("t1c", "flair")


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("    result_family: brain\n", "    result_family: brain\n    publsh: pacs\n", 11, "did you mean publish"),
        ("schema_version: 1", "schema_version: 2", 1, "schema_version"),
        ("schema_version: 1", "schema_version: 1\nrouts: []", 2, "routs"),
        ("equals: MR", "equal: MR", 6, "unknown key; did you mean equals"),
        ("attribute: Modality", "attribute: Modalty", 6, "Modalty"),
        ("matches: flair", "matches: '(a+)+'", 7, "repetition"),
        ("equals: MR", "equals: YES", 6, "quotes"),
        ("[[t1ce, flair], [flair]]", "[[t1x, flair]]", 8, "role_sets"),
        ("[[t1ce, flair], [flair]]", "[]", 8, "role_sets"),
        ("[[t1ce, flair], [flair]]", "[[flair], [flair]]", 3, "twice"),
        ("[[t1ce, flair], [flair]]", "[[image, flair]]", 3, "alone"),
        ("model: brain-flair@stable", "model: ../etc/passwd", 9, "model"),
        ("    result_family: brain\n", "    result_family: brain\n    publish: pacs\n", 3, "destinations"),
        ("    result_family: brain\n", "    result_family: brain\n    publish: no\n", 11, "nothing, pacs, all"),
        ("    result_family: brain\n", "    result_family: brain\n    fallback_for: other\n", 1, "names no route"),
        (
            "    result_family: brain\n",
            "    result_family: brain\n    prefer: {flair: [nicest]}\n",
            11,
            "nicest|criter|prefer",
        ),
        ("    result_family: brain\n", "    result_family: brain\n    name: again\n", 11, "twice"),
        ("equals: MR}", "equals: MR", 6, "YAML"),
        ("{attribute: Modality, equals: MR}", "&a {attribute: Modality, equals: MR}\n        - *a", 6, "aliases"),
        ("{attribute: Modality, equals: MR}", "!!python/name:os.system {}", 6, "."),
    ],
)
def test_a_mistake_is_refused_with_its_line_and_key(old: str, new: str, line: int, says: str) -> None:
    assert old in GOOD
    with pytest.raises(RoutesRefused, match=says) as refused:
        parse_routes(GOOD.replace(old, new, 1), "site.yaml")
    assert f"site.yaml line {line}" in str(refused.value) or says in ("YAML", "."), str(refused.value)


def test_every_mistake_is_told_at_once() -> None:
    text = GOOD.replace("equals: MR", "equal: MR").replace("model:", "modell:")
    with pytest.raises(RoutesRefused) as refused:
        parse_routes(text)
    assert "line 6" in str(refused.value)
    assert "line 9" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"- 1\n- 2\n", b"42"])
def test_no_route_file_is_refused_too(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "routes.yaml"
    file.write_bytes(content)
    with pytest.raises(RoutesRefused):
        load_routes(file)
    with pytest.raises(RoutesRefused, match="cannot be read"):
        load_routes(tmp_path / "absent.yaml")


def test_routes_are_considered_first_choices_first() -> None:
    entry = (
        "  - {{name: {0}, when: {{attribute: Modality, equals: MR}}, role_sets: [[flair]], model: m, "
        "result_family: {1}{2}}}\n"
    )
    text = "schema_version: 1\nroutes:\n" + "".join(
        entry.format(*row)
        for row in [
            ("last", "f", ", fallback_for: second"),
            ("second", "f", ", fallback_for: first"),
            ("idle", "f", ", enabled: false"),
            ("late", "f", ", order: 200"),
            ("first", "f", ""),
            ("other", "g", ""),
        ]
    )
    families = parse_routes(text).families()
    assert {f: [r.name for r in routes] for f, routes in families.items()} == {
        "f": ["first", "late", "second", "last"],
        "g": ["other"],
    }
    with pytest.raises(RoutesRefused, match="circle"):
        parse_routes(text.replace("name: first,", "name: first, fallback_for: last,"))
    with pytest.raises(RoutesRefused, match="another result_family"):
        parse_routes(text.replace("name: other,", "name: other, fallback_for: first,"))


def test_priority_by_calling_ae() -> None:
    text = GOOD + "    priority_by_calling_ae: {EMERGENCY: stat}\n"
    route = parse_routes(text).routes[0]
    assert (route.priority_for("EMERGENCY "), route.priority_for("OTHER"), route.priority_for(None)) == (
        "stat",
        "routine",
        "routine",
    )


def test_own_results_cannot_be_let_in() -> None:
    route = parse_routes(GOOD + "    exclude: []\n").routes[0]
    assert route.exclusions == {"own-result", "not-an-image"}


def test_the_shipped_file_loads_and_publishes_nothing() -> None:
    book = load_routes(REPOSITORY / "config" / "routes.yaml")
    assert [route.name for route in book.routes] == ["brain-flair", "brain-tumour", "skin-lesion"]
    assert [route.name for route in book.families()["brain-abnormality"]] == ["brain-tumour", "brain-flair"]
    assert all(route.publish is Publish.NOTHING for route in book.routes)
    assert book.routes[0].criteria("flair") == (
        "same-frame-of-reference",
        "nearest-in-time-before-contrast",
        "finer-voxels",
        "lowest-series-number",
    )


def test_every_key_is_documented() -> None:
    page = (REPOSITORY / "docs" / "reference" / "routing.md").read_text(encoding="utf-8")
    words = [
        *COMPARISONS,
        *COMBINATIONS,
        "attribute",
        *Route.model_fields,
        *RouteBook.model_fields,
        *ROUTE_ATTRIBUTES,
        *get_args(Criterion),
        *get_args(Exclusion),
        *HOLDS,
    ]
    missing = [word for word in words if f"`{word}`" not in page]
    assert not missing, f"docs/reference/routing.md does not explain {missing}"


def test_the_room_exports_its_verb_and_its_types() -> None:
    import dicom_node.routing as room

    assert [name for name in room.__all__ if not name[0].isupper()] == ["decide"]
    assert all(hasattr(room, name) for name in room.__all__)
