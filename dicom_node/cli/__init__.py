"""ai-node: the command line.  Each command says with ``--help`` what it does, with an example.

Exit codes: 0 done, 1 a fault of ours, 2 wrong usage, 3 input refused, 4 a peer is unreachable, 5 configuration refused.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from dicom_node.cli.common import choose_config

_LAZY: dict[str, tuple[str, str, str]] = {
    # name: (module, attribute, one line for the list)
    "serve": ("dicom_node.cli.processes", "serve", "Run the node: listener, worker and web, supervised."),
    "listen": ("dicom_node.cli.processes", "listen", "Run the C-STORE listener alone."),
    "work": ("dicom_node.cli.processes", "work", "Run the worker alone."),
    "web": ("dicom_node.cli.processes", "web", "Run the HTTP server alone."),
    "bridge": ("dicom_node.cli.processes", "bridge", "Run the bridge to an AMQP broker alone."),
    "demo": ("dicom_node.cli.demo", "demo", "Three synthetic studies go in; results come back."),
    "send": ("dicom_node.cli.send", "send", "Send DICOM files, or photographs of a patient."),
    "predict": ("dicom_node.cli.predict", "predict", "Run a model on files, without a server."),
    "studies": ("dicom_node.cli.operate", "studies", "The newest studies and what was said of them."),
    "study": ("dicom_node.cli.operate", "study_app", "One study's whole story."),
    "jobs": ("dicom_node.cli.operate", "jobs_app", "What runs, waits or failed."),
    "destinations": ("dicom_node.cli.pauses", "app", "Where results go; leave one alone for a while."),
    "held": ("dicom_node.cli.operate", "held_app", "What waits for a person's decision."),
    "models": ("dicom_node.cli.packages", "app", "Model packages: list, verify, import, gate, switch, replay."),
    "routes": ("dicom_node.cli.routes", "app", "Which series go to which model, and why."),
    "users": ("dicom_node.cli.people", "users_app", "Accounts of people and services."),
    "sites": ("dicom_node.cli.people", "sites_app", "Posts and hospitals whose studies are kept apart."),
    "keys": ("dicom_node.cli.operate", "keys_app", "API keys of programs."),
    "tokens": ("dicom_node.cli.tokens", "app", "Keys that sign the tokens of the LUNA API."),
    "audit": ("dicom_node.cli.audit", "app", "The audit log: verify, read, export."),
    "retention": ("dicom_node.cli.retention", "app", "How long things are kept, legal holds, erasing."),
    "backup": ("dicom_node.cli.backup", "backup", "Copy the data folder of a running node."),
    "tls": ("dicom_node.cli.tls", "app", "Certificates: make, renew, look at them."),
    "at-rest": ("dicom_node.cli.at_rest", "app", "Encryption of what is stored: keys, state, change."),
    "config": ("dicom_node.cli.doctor", "config_app", "The settings in force."),
    "health": ("dicom_node.cli.processes", "health", "Ask the running node whether it lives."),
    "doctor": ("dicom_node.cli.doctor", "doctor", "Check everything the node needs, and say what to do."),
    "train": ("dicom_node.cli.train_decide", "app", "Train a model on your own data."),
    "benchmark": ("dicom_node.cli.benchmark", "benchmark", "Times and throughput of a running node, by a protocol."),
    "evaluate": ("dicom_node.cli.evaluate", "evaluate", "Measure a model on labelled cases."),
    "calibrate": ("dicom_node.cli.calibrate", "calibrate", "Thresholds of a classifier for your own pictures."),
    "audit-model": ("dicom_node.cli.audit_model", "audit_model", "How a model does on your own patients."),
}


class _LazyGroup(TyperGroup):
    """Imports a command's module when it is used: `ai-node --help` need not load a deep-learning framework."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().main(*arguments, **options)
        except Exception as fault:  # the command line's boundary: what comes up to here is told, never shown as it is
            from dicom_node.cli.troubles import end

            raise SystemExit(end(fault)) from None

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_LAZY)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = _LAZY.get(cmd_name)
        if found is None:
            return None
        module, attribute, line = found
        target: Any = getattr(importlib.import_module(module), attribute)
        if isinstance(target, typer.Typer):
            # a group even when it has one command only: `study show`, not `study`
            command: Any = typer.main.get_group(target)
        else:
            single = typer.Typer(add_completion=False)
            single.command()(target)
            command = typer.main.get_command(single)
        command.name = cmd_name
        command.short_help = line
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _LAZY.items()])


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print the values of variables, which may be a patient's
    rich_markup_mode=None,
    help="A DICOM/PACS-integrated AI node. Decision support for review by a qualified professional, never a diagnosis.",
    epilog="Example: ai-node --config config/node.yaml serve",
)


@app.callback()
def _common(
    config: Path | None = typer.Option(
        None, "--config", envvar="AI_NODE_CONFIG", help="Settings file; default config/node.yaml if it is there."
    ),
) -> None:
    choose_config(config)


def main() -> None:
    """Entry point of the command ``ai-node``."""
    app()
