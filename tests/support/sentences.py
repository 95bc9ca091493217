"""The sentences that the source can say about an input: every text that may come to stand in a refusal.

Read from the source itself, because a list beside it would be forgotten.  A text is followed from the refusal to where
it is written: through names, parameters and their callers, choices, tables and functions of the same module.  What is
computed stands as ``{}``; where it is itself one of our texts, that text is a sentence of its own.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("dicom_node", "portal", "ai_engine", "fhir_bridge")
COMPUTED = "{}"
_DEEPEST = 6
_CARRIERS: Mapping[str, slice] = {
    "Refused": slice(1, 3),
    "Refusal": slice(1, 3),
    "CheckResult": slice(1, 3),
    "Concern": slice(0, 2),
    "DatabaseRefused": slice(0, 1),
    "PeerTrouble": slice(0, 1),
    "OutcomeUnknown": slice(0, 1),
    "Evidence": slice(2, 3),
}
"""What carries sentences to people, and which of its arguments they are."""
_NOT_SHOWN = "dicom_node/demo"
"""Its troubles end on a command line."""
_TOLD = ("expected", "found")

NOTES: Mapping[str, tuple[str, ...]] = {
    "ai_engine/classification.py": ("_notes",),
    "ai_engine/engine.py": ("_left_out",),
    "ai_engine/postprocess.py": ("_words", "_drop_components", "_fill"),
    "ai_engine/preparation/study.py": ("_prepare",),
    "dicom_node/desks/analysis_results.py": ("_of_run", "_NOBODY_READS"),
    "dicom_node/photo/colours.py": ("upright_srgb", "_on_white", "_in_srgb"),
    "dicom_node/photo/decode.py": ("_decoded", "_look_jpeg", "_cut_notes"),
    "dicom_node/record/audit.py": ("verify", "follow"),
    "dicom_node/road.py": ("mourn", "_count_fault", "_hold", "_guarded"),
    "dicom_node/routing/cases.py": ("_not_looked_at", "_no_role", "_decide_family", "_without_candidates",
                                    "_missing", "_reasons", "_not_chosen"),
    "dicom_node/routing/choice.py": ("why_not", "IN_WORDS"),
    "dicom_node/routing/contrast.py": ("stated", "_add_pairs", "_add_verdict", "_add_bounds", "_add_seen",
                                       "_add_unmarked", "_add_hints"),
    "dicom_node/routing/fallback.py": ("_in_words",),
    "dicom_node/routing/gate.py": ("HOLDS",),
    "dicom_node/routing/kinds.py": ("kinds", "_of_the_object", "_by_value"),
    "dicom_node/record/transfers.py": ("bury",),
    "dicom_node/routing/roles.py": (
        "_of_one", "_photograph", "_in_words", "_weigh", "_by_resemblance", "_with_contrast",
    ),
    "dicom_node/stages/decided.py": ("start_case",),
    "dicom_node/stages/deliver.py": ("deliver",),
    "dicom_node/stages/infer.py": ("infer", "after_death"),
    "dicom_node/stages/infer_pictures.py": ("_keep",),
    "dicom_node/stages/inputs.py": ("read_case", "_from_nifti", "_from_study", "_opened"),
    "dicom_node/stages/predict.py": ("_after_death",),
    "dicom_node/stages/prediction_care.py": ("bury_requests",),
    "dicom_node/stages/submit.py": ("_submit", "_sent", "_later"),
    "dicom_node/stages/twins.py": ("WARNING",),
    "dicom_node/stages/write.py": ("write",),
    "dicom_node/volume/build.py": ("_without_copies", "_note"),
    "dicom_node/volume/picture.py": ("_notes",),
    "dicom_node/work.py": ("bury_the_dead", "_give_up"),
    "fhir_bridge/observations.py": ("SUPERSEDED_VALUE", "_GRADE_WORDS", "statements", "_absent", "_notes",
                                    "_image_statements"),
    "fhir_bridge/resources.py": ("UNREVIEWED", "RESEARCH_ONLY", "NOTHING_ABOVE_THRESHOLD", "ESTIMATE", "device",
                                 "_series", "conclusion", "_pdf"),
}  # fmt: skip
"""File -> functions and tables that make notes of a result, which stand in reports and on pages."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """One file, with what is looked up in it."""

    path: Path
    tree: ast.Module
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)
    functions: dict[str, list[Function]] = field(default_factory=lambda: defaultdict(list))
    calls: dict[str, list[ast.Call]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
            if isinstance(node, Function):
                self.functions[node.name].append(node)
            if isinstance(node, ast.Call):
                self.calls[called(node)].append(node)

    def around(self, node: ast.AST) -> Function | None:
        """The function that a node stands in."""
        found: ast.AST | None = node
        while found is not None and not isinstance(found, Function):
            found = self.parents.get(found)
        return found


def called(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def modules(folders: Iterable[str] = ROOMS) -> list[Module]:
    """The source."""
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [Module(path, ast.parse(path.read_text(encoding="utf-8"))) for path in files]


class Reader:
    """Follows texts through the source."""

    def __init__(self, source: list[Module]) -> None:
        self._source = source
        self.nested: set[str] = set()
        """Texts that are put into others."""

    def refusals(self) -> set[str]:
        """Every text that may be what was expected or found."""
        found: set[str] = set()
        for module in self._source:
            if module.path.relative_to(ROOT).as_posix().startswith(_NOT_SHOWN):
                continue
            for node in ast.walk(module.tree):
                for told in self._told(node):
                    found |= self.texts(told, module)
        return {one for one in found | self.nested if _says_something(one)}

    @staticmethod
    def _told(node: ast.AST) -> Iterator[ast.expr]:
        match node:
            case ast.Call(args=args, keywords=keywords):
                yield from (word.value for word in keywords if word.arg in _TOLD)
                yield from args[_CARRIERS[called(node)]] if called(node) in _CARRIERS else ()
            case ast.For(target=ast.Tuple(elts=names), iter=ast.Tuple(elts=rows)):
                at = [number for number, name in enumerate(names) if getattr(name, "id", "") in _TOLD]
                yield from (row.elts[number] for row in rows if isinstance(row, ast.Tuple) for number in at)
            case ast.Tuple(elts=[ast.Attribute(value=ast.Name(id="RefusalCode")), expected, found]):
                yield from (expected, found)

    def notes(self) -> set[str]:
        """Every text of the functions that make notes; `NOTES` names them."""
        found: set[str] = set()
        for module in self._source:
            wanted = NOTES.get(module.path.relative_to(ROOT).as_posix(), ())
            for name in wanted:
                made = module.functions.get(name)
                bodies: list[ast.AST] = [*made] if made else [_value_of(module, name)]
                for one in bodies:
                    found |= self._sentences(one, module)
        return {
            one for one in found | self.nested if " " in one.strip() and one[0] not in ",:;" and _says_something(one)
        }

    def _sentences(self, made: ast.AST, module: Module) -> set[str]:
        found: set[str] = set()
        said = [one for one in ast.walk(made) if isinstance(one, ast.Constant | ast.JoinedStr | ast.BinOp)]
        for one in said:
            above = module.parents.get(one)
            is_part = isinstance(above, ast.JoinedStr | ast.BinOp | ast.FormattedValue | ast.Attribute)
            is_docstring = isinstance(above, ast.Expr)
            if not is_part and not is_docstring and not _is_raised(one, module):
                found |= self.texts(one, module)
        return found

    def texts(self, node: ast.AST | None, module: Module, depth: int = 0) -> set[str]:
        """The texts that an expression may be, as far as they are written in the source."""
        if node is None or depth > _DEEPEST:
            return set()
        go = depth + 1
        match node:
            case ast.Constant(value=str() as text):
                return {text}
            case ast.JoinedStr(values=parts):
                return {"".join(pieces) for pieces in product(*(self._piece(part, module, go) for part in parts))}
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                pairs = product(self.texts(left, module, go) or {COMPUTED}, self.texts(right, module, go) or {COMPUTED})
                return {a + b for a, b in pairs}
            case ast.IfExp(body=body, orelse=other):
                return self.texts(body, module, go) | self.texts(other, module, go)
            case ast.BoolOp(values=values):
                return set().union(*(self.texts(value, module, go) for value in values))
            case ast.Name(id=name):
                return self._named(name, node, module, go)
            case ast.Subscript(value=ast.Name(id=name)):
                return self._table(name, module, go)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="get"), args=[_, *default]):
                return self._table(name, module, go) | set().union(*(self.texts(d, module, go) for d in default))
            case ast.Call(func=ast.Attribute(value=ast.Constant(), attr="join"), args=[ast.GeneratorExp(elt=each)]):
                return self.texts(each, module, go)
            case ast.Call() if called(node) in module.functions:
                returned = (
                    one.value
                    for made in module.functions[called(node)]
                    for one in ast.walk(made)
                    if isinstance(one, ast.Return)
                )
                return set().union(*(self.texts(value, module, go) for value in returned))
            case ast.Lambda(body=body):
                return self.texts(body, module, go)
        return set()

    def _piece(self, part: ast.expr, module: Module, depth: int) -> set[str]:
        """What may stand in one place of a text: a bare end of a sentence belongs to it, a text of its own does not."""
        if isinstance(part, ast.Constant):
            return {str(part.value)}
        assert isinstance(part, ast.FormattedValue)
        found = self.texts(part.value, module, depth)
        if any(one.startswith((",", ":", ";", " ")) for one in found):
            return found
        self.nested |= found
        return {COMPUTED}

    def _named(self, name: str, node: ast.AST, module: Module, depth: int) -> set[str]:
        around = module.around(node)
        found: set[str] = set()
        if around is not None:
            if name in (one.arg for one in (*around.args.posonlyargs, *around.args.args, *around.args.kwonlyargs)):
                return self._from_callers(around, name, module, depth)
            for one in ast.walk(around):
                found |= self._assigned(one, name, module, depth)
        for one in module.tree.body:
            found |= self._assigned(one, name, module, depth)
        return found

    def _assigned(self, one: ast.AST, name: str, module: Module, depth: int) -> set[str]:
        match one:
            case ast.Assign(targets=targets, value=value) if any(getattr(t, "id", "") == name for t in targets):
                return self.texts(value, module, depth)
            case (
                ast.AnnAssign(target=ast.Name(id=bound), value=value)
                | ast.NamedExpr(target=ast.Name(id=bound), value=value)
            ) if bound == name:
                return self.texts(value, module, depth)
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                pairs = zip(names, values, strict=True)
                return set().union(*(self.texts(v, module, depth) for n, v in pairs if getattr(n, "id", "") == name))
            case ast.For(target=ast.Tuple(elts=names), iter=ast.Tuple(elts=rows)):
                at = next((number for number, n in enumerate(names) if getattr(n, "id", "") == name), None)
                cells = [row.elts[at] for row in rows if at is not None and isinstance(row, ast.Tuple)]
                return set().union(*(self.texts(cell, module, depth) for cell in cells))
        return set()

    def _from_callers(self, made: Function, name: str, home: Module, depth: int) -> set[str]:
        found: set[str] = set()
        places = [one.arg for one in (*made.args.posonlyargs, *made.args.args)]
        is_method = bool(places) and places[0] in ("self", "cls")
        for module in [home] if made.name.startswith("_") else self._source:
            for call in module.calls.get(made.name, []):
                given = next((word.value for word in call.keywords if word.arg == name), None)
                if given is None and name in places:
                    at = places.index(name) - (1 if is_method and isinstance(call.func, ast.Attribute) else 0)
                    given = call.args[at] if 0 <= at < len(call.args) else None
                found |= self.texts(given, module, depth)
        return found

    def _table(self, name: str, module: Module, depth: int) -> set[str]:
        found: set[str] = set()
        for one in module.tree.body:
            value = getattr(one, "value", None)
            targets = getattr(one, "targets", None) or [getattr(one, "target", None)]
            if isinstance(value, ast.Dict) and any(getattr(t, "id", "") == name for t in targets):
                found |= set().union(*(self.texts(v, module, depth) for v in value.values))
        return found


def _says_something(text: str) -> bool:
    return any(letter.isalpha() for letter in text.replace(COMPUTED, ""))


def _value_of(module: Module, name: str) -> ast.AST:
    """What a name of the module is bound to."""
    for one in module.tree.body:
        targets = getattr(one, "targets", None) or [getattr(one, "target", None)]
        if any(getattr(target, "id", "") == name for target in targets):
            value: ast.AST = one.value  # type: ignore[attr-defined]
            return value
    raise LookupError(f"{module.path.name} has no {name}: NOTES is out of date")


def _is_raised(node: ast.AST, module: Module) -> bool:
    found: ast.AST | None = node
    while found is not None and not isinstance(found, Function):
        if isinstance(found, ast.Raise):
            return True
        found = module.parents.get(found)
    return False
