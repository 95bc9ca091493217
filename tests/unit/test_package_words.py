"""A package says the same in every language it speaks: title, limits, names, what its numbers mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_engine.packages.common import DescriptionError
from ai_engine.packages.schema import AnyDescription, parse_description, parse_tree
from ai_engine.training.skin_package import SkinWords
from ai_engine.training.spanish import SPANISH, with_words

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "models").glob("*/*/model.yaml"))


def described(tree: dict[str, Any]) -> AnyDescription:
    return parse_description(yaml.safe_dump(tree, allow_unicode=True).encode())


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.parent.parent.name)
def test_a_shipped_package_speaks_spanish(file: Path) -> None:
    description = parse_description(file.read_bytes())
    assert set(description.words["es"]) == set(description.texts), "as its recipe writes it: ai_engine/training/spanish"
    assert all(told != text for text, told in description.words["es"].items())


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.parent.parent.name)
def test_a_text_that_one_language_lacks_is_no_package(file: Path) -> None:
    tree = parse_tree(file.read_bytes())
    for text in described(tree).texts:
        lacking = {**tree, "words": {"es": {k: v for k, v in tree["words"]["es"].items() if k != text}}}
        with pytest.raises(DescriptionError, match=r"words\.es lacks"):
            described(lacking)
    strange = {
        **tree,
        "words": {"es": {**tree["words"]["es"], "It sees through walls.": "Ve a través de las paredes."}},
    }
    with pytest.raises(DescriptionError, match="through walls"):
        described(strange)
    with pytest.raises(DescriptionError, match=r"words\.xx"):
        described({**tree, "words": {"xx": tree["words"]["es"]}})
    assert described({key: value for key, value in tree.items() if key != "words"}).words == {}, "English alone is fine"


def test_what_a_recipe_writes_speaks_spanish_where_its_texts_are_known() -> None:
    (skin,) = (file for file in SHIPPED if file.parent.parent.name == "skin-lesion")
    tree = parse_tree(skin.read_bytes())
    assert with_words(tree) == tree
    assert "words" not in with_words({**tree, "limits": [*tree["limits"], "Own pictures of one clinic."]})
    own = SkinWords()
    assert {own.title, own.intended_use, *own.limits, *own.meanings.values()} <= set(SPANISH)
