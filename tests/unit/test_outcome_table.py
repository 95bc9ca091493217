"""Tables of outcomes: what spreadsheets of two countries write is read, what is wrong is named by its line."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_node.desks.outcome_table import MOST_ROWS, TableRefused, read_table, table_of

pytestmark = pytest.mark.unit

ONE, TWO = "a" * 32, "b" * 32


def row(public_id: str, **known: Any) -> dict[str, Any]:
    return {"public_id": public_id, "created_at": "2026-03-02T10:00", "site": "post-1", "body_site": None, **known}


@pytest.mark.parametrize(
    "text",
    [
        f"analysis,diagnosis,on_date\n{ONE},naevus,2026-03-09\n",
        f"analysis;diagnosis;on_date\r\n{ONE};naevus;2026-03-09\r\n",
        f'\ufeffOn_Date, Diagnosis ,Analysis,note\n2026-03-09,Naevus,{ONE},"two\nlines, and more"\n',
        f"analysis,diagnosis,on_date,malignant\n{TWO},,,\n{ONE},naevus,2026-03-09,\n",
        f"analysis,diagnosis,on_date\n\n{ONE},naevus,2026-03-09,one too many\n",
    ],
)
def test_what_spreadsheets_write_is_read(text: str) -> None:
    (line,) = read_table(text.encode())
    assert (line.analysis, line.diagnosis, line.on_date, line.malignant) == (ONE, "naevus", "2026-03-09", None)
    assert not line.problem


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "columns-missing"),
        (b"analysis,diagnosis\nx,y\n", "columns-missing"),
        (b"analysis,diagnosis,on_date\n", "empty"),
        (b"analysis,diagnosis,on_date\nx,,\n", "empty"),
        (b"\xff\xfea\x00", "not-text"),
        (b'analysis,diagnosis,on_date\n"' + b"x" * 200_000 + b'",naevus,2026-03-09\n', "not-text"),
        (b"analysis,diagnosis,on_date\n" + b"x,naevus,2026-03-09\n" * (MOST_ROWS + 1), "too-long"),
    ],
)
def test_what_is_no_table_of_outcomes_is_refused_by_name(content: bytes, reason: str) -> None:
    with pytest.raises(TableRefused, match=reason):
        read_table(content)


def test_wrong_rows_are_named_by_the_line_of_the_file() -> None:
    text = (
        "analysis,diagnosis,on_date,malignant\n"
        f"{ONE},naevus,2026-03-09,0\n"
        "=1+1,naevus,2026-03-09,\n"
        f"{ONE},melanoma,2026-03-09,true\n"
        f"{TWO},melanoma,2026-03-09,perhaps\n"
    )
    lines = read_table(text.encode())
    assert [(line.number, line.problem) for line in lines] == [
        (2, ""),
        (3, "analysis-unknown"),
        (4, "analysis-twice"),
        (5, "malignant-unclear"),
    ]
    assert [line.malignant for line in lines] == [False, None, True, None]


def test_the_table_that_is_given_out_can_be_filled_in_and_sent_back() -> None:
    empty = table_of([row(ONE), row(TWO, body_site="upper-back")])
    assert empty.splitlines()[0] == "analysis,asked_on,site,body_site,diagnosis,on_date"
    filled = empty.replace("upper-back,,", "upper-back,melanoma,2026-03-09")
    (line,) = read_table(filled.encode())
    assert (line.number, line.analysis, line.diagnosis) == (3, TWO, "melanoma")
