"""The net for words of the other language: what it catches, and what it lets through."""

from __future__ import annotations

import pytest

from tests.support.tongues import alone, strangers

pytestmark = pytest.mark.unit


def test_each_language_has_words_of_its_own() -> None:
    english, spanish = alone("en"), alone("es")
    assert {"the", "with", "is", "photograph", "held"} <= english and {"que", "fotografía", "retenido"} <= spanish
    assert not english & spanish and len(english) > 800 and len(spanish) > 800
    assert not english & {"no", "error", "normal", "pdf"}


@pytest.mark.parametrize(
    "page",
    [
        "<p>The destination did not answer</p>",
        '<button aria-label="Release: study-1">x</button>',
        '<img alt="Photograph of the lesion">',
        "<title>Held · LUNA</title>",
        '<body data-field-missing="Fill in this field.">',
        '<svg role="img" aria-label="The threshold"><text>1</text></svg>',
        "<details><summary>Detalles</summary><code>x</code> grade: weak evidence</details>",
    ],
)
def test_what_a_reader_of_spanish_would_meet_in_english_is_found(page: str) -> None:
    assert strangers(page, "es")


@pytest.mark.parametrize(
    "page",
    [
        "<p>El destino no respondió</p><code>study with the id</code><script>const held = 'the';</script>",
        '<a lang="en" href="x" title="Read in English">English</a>',
        '<p>Motivo: asked for by a court</p><input name="held" data-max-bytes="30">',
        "<p>`ai-node held` muestra qué espera; audit.heads_folder</p>",
    ],
)
def test_what_belongs_there_is_let_through(page: str) -> None:
    assert strangers(page, "es", own=["asked for by a court"]) == []
    assert strangers("<p>El destino no respondió</p>", "en")
