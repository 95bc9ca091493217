"""Documentation that can be checked is checked: links, commands, settings, events.  What it claims must be there."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from typer.main import get_command

from dicom_node import destination_settings
from dicom_node import settings as settings_module
from dicom_node.cli import app
from dicom_node.logs import FIELDS
from dicom_node.settings import Settings
from portal.pages.language import dictionary

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "docker" / "README.md",
    *DOCS.rglob("*.md"),
]
PACKAGES = ("dicom_node", "ai_engine", "fhir_bridge", "portal")


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(REPOSITORY)) for page in pages]


# -- links


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_relative_link_resolves(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if REPOSITORY / "models" in target.parents and not (REPOSITORY / "models" / "brain-flair").exists():
            continue  # the weights are no part of this checkout
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_that_the_sources_name_exists() -> None:
    files = [p for package in PACKAGES for p in (REPOSITORY / package).rglob("*.py")]
    files += [p for folder in ("config", "orthanc", "docker") for p in (REPOSITORY / folder).rglob("*") if p.is_file()]
    for file in files:
        for page in re.findall(r"docs/[\w/-]+\.(?:md|json)", file.read_text(encoding="utf-8")):
            assert (REPOSITORY / page).is_file(), f"{file.name} names {page}"


# -- commands


@cache
def made_cli() -> Any:
    spec = importlib.util.spec_from_file_location("make_cli", DOCS / "make_cli.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spoken(page: Path) -> Iterator[str]:
    """Every command line of a page that starts with ai-node: lines of code blocks and inline code."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *inline]:
        if found := re.match(r"(?:\.venv/bin/)?ai-node(?: (.*))?$", line):
            yield re.sub(r"\s+#.*$", "", found[1] or "")


def words_of(line: str) -> list[str]:
    """Its words; brackets and bars of a synopsis are taken away, and so is what follows a pipe."""
    return shlex.split(line.split(" | ")[0].replace("[", " ").replace("]", " ").replace("…", "..."), comments=False)


def check(line: str) -> None:
    """Walk the command tree along a line; every option must be one of the command's."""
    command: Any = get_command(app)
    words = words_of(line)
    if words and words[0].startswith("--"):
        assert words[0] in ("--config", "--help"), line
        words = words[1 if words[0] == "--help" else 2 :]
    while words and hasattr(command, "list_commands"):
        found = command.get_command(None, words[0])
        assert found is not None, f"`ai-node {line}`: no command {words[0]!r}"
        command, words = found, words[1:]
    known = {opt for parameter in command.params for opt in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in known, f"`ai-node {line}`: no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_command_that_is_named_exists(page: Path) -> None:
    for line in spoken(page):
        check(line)


def test_the_check_of_commands_sees_what_is_wrong() -> None:
    for line in ("studys", "study list", "held release X --because y", "--verbose serve"):
        with pytest.raises(AssertionError):
            check(line)
    assert {line for page in PAGES for line in spoken(page)} >= {"serve", "doctor"}


def test_every_command_has_an_example_that_runs_it() -> None:
    for name, command in made_cli().commands():
        _, found, example = (command.help or "").partition("Example: ")
        assert found, f"ai-node {name} --help has no example"
        line = example.strip().splitlines()[0]
        assert name in line and line.startswith("ai-node "), line
        check(line.removeprefix("ai-node "))


def test_the_page_of_commands_is_up_to_date() -> None:
    written = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    assert written == made_cli().page(), "run: .venv/bin/python docs/make_cli.py"


def test_messages_name_commands_that_exist() -> None:
    """`ai-node …` in the sources' own texts: advice must be something that can be done."""
    for tree, _ in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for line in re.findall(r"`ai-node ([^`\n]+)`", node.value):
                    check(line)


# -- settings


def fields(model: type[BaseModel], prefix: str) -> dict[str, str]:
    """Key -> its default as the page writes it."""
    found = {}
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        default = field.get_default(call_default_factory=True)
        found[f"{prefix}{name}"] = "needed" if default is PydanticUndefined else shown(default)
    return found


def shown(default: Any) -> str:
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return "`[]`" if not default else f"`{list(default)}`"
    if isinstance(default, dict) and default:
        return ", ".join(f"`{key}`" for key in default)
    return f"`{default}`" if default != "" else '`""`'


def documented() -> dict[str, dict[str, str]]:
    """Heading or lead-in of each table of the page -> key -> default."""
    tables: dict[str, dict[str, str]] = {}
    lead = ""
    for line in (DOCS / "reference" / "settings.md").read_text(encoding="utf-8").splitlines():
        if row := re.match(r"\| `([\w.]+)` \| ([^|]+) \| ", line):
            tables.setdefault(lead, {})[row[1]] = row[2].strip()
        elif line and not line.startswith("|"):
            lead = line
    return tables


def test_every_setting_is_documented_with_its_default() -> None:
    expected: dict[str, str] = {}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            expected |= fields(field.annotation, f"{name}.")
        elif name not in ("destinations", "webhooks"):
            expected[name] = shown(field.default)
    tables = documented()
    written = {
        key: default for table in tables.values() for key, default in table.items() if "." in key or key == "routes"
    }
    assert written == expected
    common = fields(destination_settings.CommonDestination, "")
    file = fields(destination_settings.CommonFileDestination, "")
    server = fields(destination_settings.CommonServerDestination, "")
    leads = {
        "One sender": (settings_module.Sender, {}),
        "`kind: stow`": (settings_module.StowDestination, common),
        "`kind: cstore`": (settings_module.CStoreDestination, common),
        "Kinds that take files": (destination_settings.CommonFileDestination, common),
        "`kind: folder`": (settings_module.FolderDestination, file),
        "`kind: http`": (settings_module.HttpDestination, file),
        "Kinds `ftp`, `ftps` and `sftp`": (destination_settings.CommonServerDestination, file),
        "`kind: ftp`": (settings_module.FtpDestination, server),
        "`kind: ftps`": (settings_module.FtpsDestination, server),
        "`kind: sftp`": (settings_module.SftpDestination, server),
        "`kind: fhir`": (settings_module.FhirDestination, common),
        "One webhook": (settings_module.Webhook, {}),
        "`destinations.<name>`": (destination_settings.CommonDestination, {}),
    }
    for lead, (model, without) in leads.items():
        (table,) = [table for head, table in tables.items() if head.startswith(lead)]
        assert table == {k: v for k, v in fields(model, "").items() if k not in without}, lead


def test_every_setting_is_read_somewhere() -> None:
    """A key that changes nothing is a promise that is not kept."""
    attributes = {
        node.attr
        for tree, path in sources()
        if path.name not in ("settings.py", "destination_settings.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
    }
    models = [
        m for m in vars(settings_module).values() if isinstance(m, type) and issubclass(m, destination_settings.Section)
    ]
    assert len(models) > 10
    for model in models:
        assert set(model.model_fields) <= attributes, (model.__name__, set(model.model_fields) - attributes)


def test_the_shipped_configuration_says_the_defaults_it_claims() -> None:
    """What stands in config/node.yaml is the default, but for the archive that it names."""
    import yaml

    shipped = yaml.safe_load((REPOSITORY / "config" / "node.yaml").read_text(encoding="utf-8"))
    default = Settings.model_construct().model_dump(mode="json")
    assert set(shipped) <= set(default)
    for section, values in shipped.items():
        if isinstance(values, Mapping) and section != "destinations":
            for key, value in values.items():
                if (section, key) != ("door", "senders"):
                    assert default[section][key] == value, f"{section}.{key}"


# -- events


@cache
def sources() -> tuple[tuple[ast.Module, Path], ...]:
    paths = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
    return tuple((ast.parse(path.read_text(encoding="utf-8")), path) for path in paths)


def calls(is_wanted: Any) -> Iterator[tuple[ast.Call, ast.Module, str]]:
    for tree, path in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and is_wanted(node):
                yield node, tree, f"{path.relative_to(REPOSITORY)}:{node.lineno}"


def is_note(call: ast.Call) -> bool:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    return name == "note" and len(call.args) >= 3


def is_log(call: ast.Call) -> bool:
    levels = ("debug", "info", "warning", "error", "exception", "critical")
    if not (isinstance(call.func, ast.Attribute) and call.func.attr in levels):
        return False
    return ast.unparse(call.func.value) in ("log", "_log", "structlog.get_logger()")


NAMED_BY_VARIABLE = {
    ("dicom_node/stages/decided.py", "event"): {"case.held", "case.refused"},
    ("dicom_node/stages/deliver.py", "event"): {"delivery.held", "delivery.later"},
    ("dicom_node/stages/deliver.py", "f'delivery.{state.value}'"): {"delivery.failed", "delivery.held"},
    ("dicom_node/stages/infer.py", "f'run.{stage}'"): {"run.infer", "run.write"},
    ("dicom_node/record/actions.py", "action"): {"held.released", "held.rejected", "job.retried", "job.cancelled"},
}
"""Where a name is no literal: which names it takes.  Every other such place fails the test."""


def table(heading: str) -> set[str]:
    text = (DOCS / "reference" / "timeline.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    firsts = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    return {name for first in firsts for name in re.findall(r"`([^`]+)`", first)}


def test_every_event_of_the_timeline_is_explained_and_no_other() -> None:
    found: set[str] = set()
    for call, tree, where in calls(is_note):
        name = call.args[1]
        if isinstance(name, ast.Constant):
            found.add(str(name.value))
        else:
            place = (where.rpartition(":")[0], ast.unparse(name))
            assert place in NAMED_BY_VARIABLE, f"{where}: an event without a fixed name"
            literals = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
            taken = NAMED_BY_VARIABLE[place]
            assert "{" in place[1] or taken <= literals, where
            found |= taken
    assert found == table("Timeline")


def test_every_event_of_the_log_is_explained_and_no_other() -> None:
    found = set()
    for call, _, where in calls(is_log):
        assert isinstance(call.args[0], ast.Constant), f"{where}: an event without a fixed name"
        found.add(str(call.args[0].value))
    assert found == table("Log")


def test_every_field_that_is_logged_is_printed() -> None:
    """A field that the allow-list drops is one that its author thought he would see."""
    for call, _, where in calls(is_log):
        fields_of_call = {keyword.arg for keyword in call.keywords} - {"exc_info", None}
        assert fields_of_call <= FIELDS, (where, fields_of_call - FIELDS)


# -- in Spanish

IN_SPANISH = {
    "use-luna": "conocer-luna",
    "photograph-a-lesion": "fotografiar-una-lesion",
    "answer-and-administrate": "responder-y-administrar",
}
"""What doctors and administrators read to use the pages: the English page, the Spanish one."""


def emphasised(page: Path) -> set[str]:
    """What a page sets in italics: these pages do so with the words of buttons and places, and with nothing else."""
    text = " ".join(page.read_text(encoding="utf-8").split())
    return {found for found in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", text)}


@pytest.mark.parametrize(("english", "spanish"), IN_SPANISH.items(), ids=list(IN_SPANISH))
def test_who_uses_the_pages_reads_the_same_in_both_languages(english: str, spanish: str) -> None:
    ours, theirs = DOCS / "how-to" / f"{english}.md", DOCS / "es" / f"{spanish}.md"
    assert f"](../es/{spanish}.md)" in ours.read_text(encoding="utf-8")
    assert f"](../how-to/{english}.md)" in theirs.read_text(encoding="utf-8")
    assert sorted(spoken(ours)) == sorted(spoken(theirs)), "the same commands"
    heads = [re.findall(r"^(#+) ", page.read_text(encoding="utf-8"), re.MULTILINE) for page in (ours, theirs)]
    assert heads[0] == heads[1], "the same chapters"
    for page, language in ((ours, "en"), (theirs, "es")):
        values = (one for one in dictionary(language).values())
        told = " | ".join(text for one in values for text in ([one] if isinstance(one, str) else one.values()))
        assert emphasised(page)
        assert not {one for one in emphasised(page) if one.lower() not in told.lower()}, "no such words on a page"


def test_every_spanish_page_is_known_and_the_readme_leads_there() -> None:
    assert {page.stem for page in (DOCS / "es").glob("*.md")} == {"README", *IN_SPANISH.values()}
    assert "](docs/es/README.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


# -- the rest


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    assert re.search(r"^## \[Unreleased\]$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_what_ships_is_what_the_readme_says() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for card in re.findall(r"\((models/[\w.-]+/[\w.-]+)/CARD\.md\)", readme):
        folder = REPOSITORY / card
        if folder.exists():
            assert {"CARD.md", "manifest.json", "model.yaml"} <= {path.name for path in folder.iterdir()}


def test_every_page_of_the_reference_can_be_found() -> None:
    """Somebody who starts at the README finds every page by links."""
    seen: set[Path] = set()
    todo = [REPOSITORY / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or not page.is_file() or page.suffix != ".md":
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
        todo += [(page.parent / link).resolve() for link in links if not re.match(r"[a-z]+:", link)]
    assert names(sorted(set(DOCS.rglob("*.md")) - seen)) == []


@pytest.mark.parametrize(
    "proof", sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", (DOCS / "architecture.md").read_text())))
)
def test_every_proof_of_an_invariant_exists(proof: str) -> None:
    assert (REPOSITORY / proof).is_file()
