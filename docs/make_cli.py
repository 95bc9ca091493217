"""Write docs/reference/cli.md from the commands themselves:  .venv/bin/python docs/make_cli.py

A test compares; after a change of a command run this again.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from dicom_node.cli import app

TARGET = Path(__file__).resolve().parent / "reference" / "cli.md"

HEAD = """# Commands

Made by `docs/make_cli.py` from the commands themselves; every command says the same with `--help`. `ai-node` lies in
`.venv/bin`: `. .venv/bin/activate` makes it found.

Exit codes: 0 done; 1 a fault of ours, a full disk, or a check that did not hold; 2 wrong usage; 3 input refused; 4 a
peer is unreachable; 5 configuration refused.
`--json` prints one JSON value on standard output; words for people go to standard error then.

A command that cannot do what it is asked says why in words, with what was expected, what was found and what to do.
Where something happens that nobody thought of it names type and place, and never the data it was about.

`ai-node` itself takes one option, before the command: `--config FILE` (or the variable `AI_NODE_CONFIG`), the settings
file; without it `config/node.yaml` if it is there.
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its whole name, in the order of `ai-node --help`."""
    yield from _below("", get_command(app))


def _below(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        whole = f"{prefix} {name}".strip()
        if hasattr(command, "list_commands"):
            yield from _below(whole, command)
        else:
            yield whole, command


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_section(name, command) for name, command in commands())


def _section(name: str, command: Any) -> str:
    text, _, example = inspect.cleandoc(command.help or "").partition("Example:")
    lines = [f"\n## {name}\n", text.strip(), "", "```", example.strip(), "```"]
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    if rows:
        lines += ["", "| | | default |", "|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    spelled = "/".join([*parameter.opts, *parameter.secondary_opts]) if is_option else parameter.name.upper()
    text = str(getattr(parameter, "help", "") or "").replace("|", "\\|")
    default = parameter.default
    if parameter.required:
        shown = "needed"
    elif default is None or default in ("", False) or default == []:
        shown = ""
    else:
        shown = f"`{', '.join(map(str, default)) if isinstance(default, list | tuple) else default}`"
    return f"| `{spelled}` | {text} | {shown} |"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
