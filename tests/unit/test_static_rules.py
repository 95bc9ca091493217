"""What the sources may not say (S16, S22): SQL outside the record or put together from text, templates that trust."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("dicom_node", "ai_engine", "fhir_bridge", "portal")
HARMLESS = {"Connection", "RowMapping", "Row", "SQLAlchemyError", "DBAPIError", "OperationalError", "IntegrityError"}
"""Types and exceptions: with these nothing can be asked."""
RAW = {"text", "literal_column", "exec_driver_sql", "executescript"}
RAW_IN = {
    "dicom_node/record/database.py": "pragmas and BEGIN, from a table of our own",
    "dicom_node/record/migrations/versions/0001_first_tables.py": "the condition of an index",
}


@cache
def sources() -> tuple[tuple[str, ast.Module], ...]:
    paths = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
    return tuple((str(path.relative_to(REPOSITORY)), ast.parse(path.read_text(encoding="utf-8"))) for path in paths)


def sql_outside(name: str, tree: ast.Module) -> Iterator[str]:
    """Names of SQLAlchemy with which a statement could be made, in a module that is none of the record's."""
    if name.startswith("dicom_node/record/"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy":
            yield from (f"{name}: {alias.name}" for alias in node.names if alias.name not in HARMLESS)
        elif isinstance(node, ast.Import):
            yield from (f"{name}: {alias.name}" for alias in node.names if alias.name.split(".")[0] == "sqlalchemy")


def raw_sql(name: str, tree: ast.Module) -> Iterator[str]:
    """Calls that take SQL as text, outside the places that are known."""
    if name in RAW_IN:
        return
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy"
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            is_raw = called in imported & RAW if isinstance(node.func, ast.Name) else called in RAW - {"text"}
            if is_raw:
                yield f"{name}:{node.lineno}: {called}"


def test_sql_is_written_in_the_record_and_nowhere_else() -> None:
    assert [found for name, tree in sources() for found in sql_outside(name, tree)] == []


def test_no_sql_is_put_together_from_text() -> None:
    assert [found for name, tree in sources() for found in raw_sql(name, tree)] == []
    assert all((REPOSITORY / name).is_file() for name in RAW_IN)


def test_the_rules_of_sql_see_what_breaks_them() -> None:
    tree = ast.parse("from sqlalchemy import select, text\ntext(f'DELETE {x}')\nc.exec_driver_sql(q)")
    assert list(sql_outside("portal/x.py", tree)) == ["portal/x.py: select", "portal/x.py: text"]
    assert len(list(raw_sql("dicom_node/record/x.py", tree))) == 2


def test_every_template_escapes() -> None:
    """A picture's description, a name, a reply: text of others, shown as text."""
    environments = [
        (name, node)
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Environment"
    ]
    assert environments
    for name, node in environments:
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        value = given.get("autoescape")
        assert isinstance(value, ast.Constant) and value.value is True, f"{name}:{node.lineno}"
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.html"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"\|\s*safe\b|autoescape\s+false|<script(?![^>]*\bsrc=)[^>]*>|\son\w+=", text), (
                path.name
            )


def test_randomness_that_guards_something_is_the_systems() -> None:
    """`random` and numpy's generators train and draw samples; nothing of the portal or of accounts may use them."""
    guarded = ("portal/", "dicom_node/desks/", "dicom_node/passwords", "dicom_node/record/", "dicom_node/sealing/")
    for name, tree in sources():
        if name.startswith(guarded):
            for node in ast.walk(tree):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert "random" not in [module.split(".")[0] for module in modules], name
