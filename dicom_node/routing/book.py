"""The route file: `config/routes.yaml`, read once at start; anything not understood refuses the start (I22).

Every mistake is told at once, each with its line and key.  YAML's own surprises (a key given twice, aliases, tags) are
refused too.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dicom_node.routing.clauses import Clause
from dicom_node.routing.route import Route, RouteBook

MAX_FILE_BYTES = 1_000_000


class RoutesRefused(Exception):
    """The route file is refused: which file, line and key, what was expected, what to do (exit code 5)."""


def load_routes(path: Path | str) -> RouteBook:
    """Read and check a route file.

    Raises
    ------
    RoutesRefused
        The file is absent, is not YAML, has a key twice, or holds anything the grammar does not know.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RoutesRefused(f"{path.name}: larger than {MAX_FILE_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RoutesRefused(f"{path} cannot be read: {error.strerror}; the settings name it (routes)") from None
    except UnicodeDecodeError:
        raise RoutesRefused(f"{path} cannot be read: expected text in UTF-8, found other bytes") from None
    return parse_routes(text, path.name)


def parse_routes(text: str, name: str = "routes.yaml") -> RouteBook:
    """As `load_routes`, from text; `name` is what error messages call the file."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise RoutesRefused(f"{name}: empty; expected schema_version and routes")
        _refuse_surprises(root, name)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise RoutesRefused(f"{name}{where}: not YAML: {getattr(error, 'problem', None) or error}") from error
    try:
        return RouteBook.model_validate(data)
    except ValidationError as error:
        raise RoutesRefused("\n".join(_lines(error, root, name))) from None


def _refuse_surprises(node: yaml.Node, name: str, depth: int = 0, seen: set[int] | None = None) -> None:
    """YAML keeps the last of two equal keys without a word, and aliases can multiply; neither is wanted here."""
    seen = set() if seen is None else seen
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise RoutesRefused(f"{name} line {line}: YAML aliases (&, *) are not used in route files")
    if depth > 40:
        raise RoutesRefused(f"{name} line {line}: nested too deeply")
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if key.value in keys:
                raise RoutesRefused(f"{name} line {key.start_mark.line + 1}: key {key.value} is given twice")
            keys.add(key.value)
            _refuse_surprises(value, name, depth + 1, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_surprises(item, name, depth + 1, seen)


def _lines(error: ValidationError, root: yaml.Node, name: str) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        location = [part for part in problem["loc"] if not _is_schema_word(part)]
        where = ".".join(str(part) for part in location)
        message = re.sub(r"^Value error, ", "", problem["msg"])
        if problem["type"] == "extra_forbidden":
            message = "unknown key" + _suggestion(location)
        lines.append(f"{name} line {_line_of(root, location)}: {where or 'file'}: {message}")
    return list(dict.fromkeys(lines))


def _is_schema_word(part: Any) -> bool:
    """Pydantic puts the names of union members into locations; they are not keys of the file."""
    return isinstance(part, str) and (part in {"str", "int", "float", "constrained-str"} or "[" in part)


def _suggestion(location: list[Any]) -> str:
    key = str(location[-1])
    known = {
        *Clause.model_json_schema(by_alias=True)["$defs"]["Clause"]["properties"],
        *Route.model_fields,
        *RouteBook.model_fields,
    }
    close = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; see docs/reference/routing.md for the keys"


def _line_of(root: yaml.Node, location: list[Any]) -> int:
    node, line = root, root.start_mark.line + 1
    for part in location:
        step: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    step, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            step = node.value[part]
            line = step.start_mark.line + 1
        if step is None:
            break
        node = step
    return line
