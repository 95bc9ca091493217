"""What was measured, as Markdown and as one HTML page with plots."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ai_engine.inline import png_uri
from dicom_node.benchmark.load import Answer, Level
from dicom_node.benchmark.sampling import Sampler
from dicom_node.benchmark.statistics import compare, memory_slope, summarise

Measured = Mapping[str, tuple[tuple[Level, ...], Sampler | None]]


HEAD = (
    "users", "answered", "mean s ± sd", "95 % interval", "P50", "P90", "P95", "P99", "work s", "waited s", "network s",
    "images/h", "CPU %", "GPU %", "RSS MB",
)  # fmt: skip
NOTE = (
    "Seconds are the client's, from sending to the whole answer; work and waiting are what the service says of itself, "
    "network is the rest (means). CPU (100 is one core), GPU and resident sets are of the service's processes while it "
    "worked; a page that processes share counts in the resident set of each."
)


def figures(measured: Measured, facts: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Everything as plain values.

    Parameters
    ----------
    facts
        Machine and versions.
    models
        Per arm: parameters, file size and whatever else is known of its model.
    """
    arms = {name: _arm(levels, sampler) | dict(models.get(name, {})) for name, (levels, sampler) in measured.items()}
    names = list(measured)
    return {
        "machine": dict(facts),
        "arms": arms,
        "comparisons": [_compared(names[0], other, measured[names[0]][0], measured[other][0]) for other in names[1:]],
    }


def _arm(levels: Sequence[Level], sampler: Sampler | None) -> dict[str, Any]:
    answers = [answer for level in levels for answer in level.answers]
    memory = [[answer.memory_mb for answer in level.answers if answer.memory_mb is not None] for level in levels]
    told = {answer.model for answer in answers if answer.model}
    counted = {answer.parameters for answer in answers if answer.parameters is not None}
    return {
        **({"model": ", ".join(sorted(told))} if told else {}),
        **({"parameters": max(counted)} if counted else {}),
        "levels": [_level(level, sampler) for level in levels],
        "memory_slope": asdict(memory_slope(memory)),
        "memory_peak_mb": max((sample.memory_mb for sample in sampler.samples), default=None) if sampler else None,
        "proportional_peak_mb": sampler.proportional_peak_mb if sampler else None,
        "class_shares": _shares(answers),
        "samples": [asdict(sample) for sample in sampler.samples] if sampler else [],
        "runs": [asdict(answer) for answer in answers],
    }


def _level(level: Level, sampler: Sampler | None) -> dict[str, Any]:
    good = [answer for answer in level.answers if answer.is_good]
    told = [answer for answer in good if answer.server_s is not None]
    waited = [answer.waited_s for answer in good if answer.waited_s is not None]
    network = [a.client_s - a.server_s - (a.waited_s or 0.0) for a in told if a.server_s is not None]
    return {
        "users": level.users,
        "asked": len(level.answers),
        "answered": len(good),
        "errors": sorted({answer.error or f"status {answer.status}" for answer in level.answers if not answer.is_good}),
        "wall_s": level.wall_s,
        "images_per_hour": level.images_per_hour,
        "client_s": asdict(summarise([answer.client_s for answer in good])) if good else None,
        "server_s": asdict(summarise([a.server_s for a in told if a.server_s is not None])) if told else None,
        "waited_s": asdict(summarise(waited)) if waited else None,
        "network_s": asdict(summarise(network)) if network else None,
        **_used(level, sampler),
    }


def _used(level: Level, sampler: Sampler | None) -> dict[str, Any]:
    """Means over the samples that were taken while a request of this level ran, and the most memory."""
    ids = {answer.run_id for answer in level.answers}
    taken = [sample for sample in sampler.samples if ids & set(sample.run_ids)] if sampler else []
    gpu = [sample.gpu_percent for sample in taken if sample.gpu_percent is not None]
    return {
        "cpu_percent": statistics.fmean(sample.cpu_percent for sample in taken) if taken else None,
        "memory_mb": max((sample.memory_mb for sample in taken), default=None),
        "gpu_percent": statistics.fmean(gpu) if gpu else None,
    }


def _shares(answers: Sequence[Answer]) -> dict[str, float]:
    """Mean share of every class over all answers, in percent of the picture."""
    keys = sorted({key for answer in answers for key in answer.shares})
    good = [answer for answer in answers if answer.is_good]
    return {key: statistics.fmean(answer.shares.get(key, 0.0) for answer in good) for key in keys} if good else {}


def _compared(one: str, other: str, ours: Sequence[Level], theirs: Sequence[Level]) -> dict[str, Any]:
    rows = []
    for first, second in zip(ours, theirs, strict=True):
        a = [answer.client_s for answer in first.answers if answer.is_good]
        b = [answer.client_s for answer in second.answers if answer.is_good]
        if a and b:
            throughput = first.images_per_hour / second.images_per_hour if second.images_per_hour else None
            rows.append({"users": first.users, **asdict(compare(a, b)), "ratio_of_throughput": throughput})
    return {"arm": one, "against": other, "levels": rows}


def markdown(found: Mapping[str, Any]) -> str:
    """Tables of what `figures` made."""
    lines = ["# Benchmark of a running node", "", _about(found["machine"]), "", NOTE, ""]
    for name, arm in found["arms"].items():
        facts = _facts(arm)
        lines += [f"## {name}", ""] + ([facts, ""] if facts else [])
        lines += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
        lines += ["| " + " | ".join(_cells(level)) + " |" for level in arm["levels"]]
        lines += ["", _memory_words(arm), _share_words(arm), ""]
    for pair in found["comparisons"]:
        lines += [f"## {pair['arm']} against {pair['against']}", ""]
        lines += [
            "| users | times faster (medians) | times the throughput | Mann-Whitney U | p |",
            "|---|---|---|---|---|",
        ]
        for row in pair["levels"]:
            through = "-" if row["ratio_of_throughput"] is None else f"{row['ratio_of_throughput']:.2f}"
            ratio = row["ratio_of_medians"]
            lines.append(f"| {row['users']} | {ratio:.2f} | {through} | {row['u']:.0f} | {row['p']:.2g} |")
        lines.append("")
    return "\n".join(lines)


def html(found: Mapping[str, Any]) -> str:
    """One self-contained page."""
    arms = {
        name: {
            "facts": _facts(arm),
            "rows": [_cells(level) for level in arm["levels"]],
            "words": [_memory_words(arm), _share_words(arm)],
        }
        for name, arm in found["arms"].items()
    }
    environment = Environment(
        loader=PackageLoader("dicom_node.benchmark", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("benchmark.html").render(
        found=found,
        arms=arms,
        head=HEAD,
        note=NOTE,
        about=_about(found["machine"]),
        plots=[_times(found), _throughput(found), _memory(found)],
    )


def _facts(arm: Mapping[str, Any]) -> str:
    """What is known of an arm's model."""
    words = {"model": "model {}", "parameters": "{:,} parameters", "file_mb": "weights of {} MB", "precision": "{}"}
    return ", ".join(form.format(arm[key]) for key, form in words.items() if key in arm)


def _cells(level: Mapping[str, Any]) -> list[str]:
    """One row of an arm's table, in the order of `HEAD`."""
    client = level["client_s"]
    first = [str(level["users"]), f"{level['answered']}/{level['asked']}"]
    if client is None:
        return [*first, ", ".join(level["errors"]), *[""] * (len(HEAD) - 3)]
    return [
        *first,
        f"{client['mean']:.2f} ± {client['sd']:.2f}",
        f"{client['low']:.2f} to {client['high']:.2f}",
        *(f"{client[key]:.2f}" for key in ("p50", "p90", "p95", "p99")),
        *(f"{level[key]['mean']:.3f}" if level[key] else "-" for key in ("server_s", "waited_s", "network_s")),
        f"{level['images_per_hour']:.0f}",
        *("-" if level[key] is None else f"{level[key]:.0f}" for key in ("cpu_percent", "gpu_percent", "memory_mb")),
    ]


def _memory_words(arm: Mapping[str, Any]) -> str:
    slope = arm["memory_slope"]
    if arm["memory_peak_mb"] is None:
        return "Memory was not watched."
    return (
        f"Memory at most {arm['proportional_peak_mb']:.0f} MB (proportional sets, read when the resident ones grew), "
        f"resident sets {arm['memory_peak_mb']:.0f} MB; {slope['mb_per_100_runs']:+.1f} MB per 100 runs "
        f"(95 % interval {slope['low']:+.1f} to {slope['high']:+.1f}): {slope['verdict']}."
    )


def _share_words(arm: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{key} {value:.2f} %" for key, value in arm["class_shares"].items())
    return f"Predicted shares of the picture: {shares or 'not told'}."


def _about(facts: Mapping[str, Any]) -> str:
    return "; ".join(f"{key} {value}" for key, value in facts.items())


def _times(found: Mapping[str, Any]) -> str:
    def draw(axes: Any) -> None:
        for number, (name, arm) in enumerate(found["arms"].items()):
            colour = f"C{number}"
            levels = [level for level in arm["levels"] if level["client_s"]]
            users = [level["users"] for level in levels]
            axes.plot(
                users, [level["client_s"]["p50"] for level in levels], marker="o", color=colour, label=f"{name}, P50"
            )
            axes.plot(
                users,
                [level["client_s"]["p95"] for level in levels],
                marker="v",
                ls=":",
                color=colour,
                label=f"{name}, P95",
            )
        axes.set_xlabel("users at once")
        axes.set_ylabel("seconds to the answer")

    return _plot(draw)


def _throughput(found: Mapping[str, Any]) -> str:
    def draw(axes: Any) -> None:
        for name, arm in found["arms"].items():
            users = [level["users"] for level in arm["levels"]]
            axes.plot(users, [level["images_per_hour"] for level in arm["levels"]], marker="o", label=name)
        axes.set_xlabel("users at once")
        axes.set_ylabel("images per hour")
        axes.set_ylim(bottom=0)

    return _plot(draw)


def _memory(found: Mapping[str, Any]) -> str:
    def draw(axes: Any) -> None:
        for name, arm in found["arms"].items():
            if arm["samples"]:
                first = arm["samples"][0]["at_s"]
                axes.plot(
                    [sample["at_s"] - first for sample in arm["samples"]],
                    [sample["memory_mb"] for sample in arm["samples"]],
                    label=name,
                )
        axes.set_xlabel("seconds")
        axes.set_ylabel("resident sets, MB")
        axes.set_ylim(bottom=0)

    return _plot(draw)


def _plot(draw: Any) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return png_uri(buffer.getvalue())
