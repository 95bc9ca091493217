"""The shipped skin-lesion against the same network called as the thesis called its own: PyTorch eager, one picture.

    python -m bench.skin [--model skin-lesion] [--data DERMOSCOPY] [--pictures N] [--rounds N] [--threads N]

Same weights, same pictures, same threads; the arms take turns, round by round, and the first round does not count:

1. *PyTorch eager*: JPEG decoded by Pillow, squeezed, normalised, through the module in float32, one picture a call and
   one view after the other, mean of the logits, sigmoid.  No heat map, no judgement of the picture.
2. *engine*: the product's warm child (`ai_engine.host`): the same JPEG decoded here, its pixels handed to the child,
   network, heat map, quality verdict and findings back.

One view and eight views of each.  Wall and CPU milliseconds are of everything from the JPEG's bytes to the answer; CPU
counts both processes.  The probabilities of the two arms are compared picture by picture.  Pictures that the quality
gate refuses are left out of both.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from ai_engine.evaluation.skin_study import pixels_of
from ai_engine.host import ModelHost
from ai_engine.packages import ModelPackage, find_package, load_package, seal_package
from ai_engine.pictures import InputPicture, PictureAnswer
from ai_engine.prediction import EngineSettings
from ai_engine.runners.classifier import HEAD_BIAS, HEAD_WEIGHT, VIEWS
from ai_engine.runners.efficientnet import build_backbone
from ai_engine.training.skin_cases import found_pictures, skin_cases
from bench.machine import about, machine, save, table

Row = dict[str, Any]
Answer = Callable[[bytes], tuple[float, float]]
"""From the bytes of a JPEG to the probability of the deciding output, in per cent (NaN where the picture is refused),
and the milliseconds of it that the network took."""
ALL_VIEWS = tuple(VIEWS)


def with_views(folder: Path, views: Sequence[str], target: Path) -> Path:
    """The package with other test-time views, in a folder of its own."""
    shutil.copytree(folder, target)
    told = yaml.safe_load((target / "model.yaml").read_text(encoding="utf-8"))
    told["network"]["views"] = list(views)
    told.pop("self_test", None)  # its logits are those of the shipped views
    (target / "model.yaml").write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    seal_package(target)
    return target


def eager(package: ModelPackage, threads: int) -> Answer:
    """The network as a notebook calls it."""
    torch.set_num_threads(threads)
    description = package.classification
    tensors = load_file(package.folder / description.weights[0])
    weight, bias = tensors.pop(HEAD_WEIGHT).float(), tensors.pop(HEAD_BIAS).float()
    module = build_backbone(description.network.architecture)
    module.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=False)
    module.eval()
    head = [output.key for output in description.outputs].index(description.deciding.key)
    how = description.network
    rows, columns = how.size
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (how.mean, how.std))

    def answer(data: bytes) -> tuple[float, float]:
        with Image.open(io.BytesIO(data)) as picture:
            image = picture.convert("RGB").resize((columns, rows), Image.Resampling.BICUBIC)
        square = (np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255 - mean) / std
        logits, begun = [], time.perf_counter()
        with torch.no_grad():
            for view in how.views:
                tile = torch.from_numpy(np.ascontiguousarray(VIEWS[view](square)))[None]
                logits.append(float((module(tile).mean((2, 3)) @ weight.T + bias)[0, head]))
        network_ms = 1000 * (time.perf_counter() - begun)
        return 100 * description.deciding.calibration.probability(statistics.fmean(logits)), network_ms

    return answer


def engine(host: ModelHost) -> Answer:
    """The product's own way."""

    def answer(data: bytes) -> tuple[float, float]:
        (said,) = host.classify([InputPicture(pixels_of(data, "a picture"), "dermoscopic")])
        if not isinstance(said, PictureAnswer):
            return float("nan"), float("nan")
        return said.findings.observations[0].measurements[0].value, 1000 * said.timings_s["network"]

    return answer


def timed(answer: Answer, pictures: Sequence[bytes], child: int | None) -> Row:
    """Milliseconds of wall and network time of each picture, milliseconds of CPU a picture, answers."""
    processes = [psutil.Process(), *([psutil.Process(child)] if child else [])]
    before = sum(sum(process.cpu_times()[:2]) for process in processes)
    wall, answers = [], []
    for data in pictures:
        begun = time.perf_counter()
        answers.append(answer(data))
        wall.append(1000 * (time.perf_counter() - begun))
    after = sum(sum(process.cpu_times()[:2]) for process in processes)
    said, network = (list(values) for values in zip(*answers, strict=True))
    return {"wall_ms": wall, "network_ms": network, "cpu_ms": [1000 * (after - before) / len(pictures)], "said": said}


def compare(folder: Path, pictures: Sequence[bytes], rounds: int, threads: int) -> Row:
    """Both arms with one view and with eight, in turn."""
    settings = EngineSettings(device="cpu", threads=threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for views in (("identity",), ALL_VIEWS):
            package = load_package(with_views(folder, views, Path(name) / str(len(views))))
            with ModelHost(package.folder, settings) as host:
                host.start()
                arms: dict[str, tuple[Answer, int | None]] = {
                    "PyTorch eager, batch 1": (eager(package, threads), None),
                    "engine": (engine(host), host.pid),
                }
                answered = [data for data in pictures if not np.isnan(arms["engine"][0](data)[0])]
                found: dict[str, Row] = {arm: {"wall_ms": [], "network_ms": [], "cpu_ms": []} for arm in arms}
                for number in range(rounds + 1):
                    for arm, (answer, child) in arms.items():
                        once = timed(answer, answered, child)
                        found[arm]["said"] = once.pop("said")
                        for key, values in once.items() if number else ():
                            found[arm][key] += values
                precisions = {"PyTorch eager, batch 1": "f32", "engine": str(host.identity["precision"])}
            rows += [_row(arm, len(views), len(answered), precisions[arm], one) for arm, one in found.items()]
            apart = [abs(a - b) for a, b in zip(found["engine"]["said"], rows[-2].pop("said"), strict=True)]
            rows[-1].pop("said")
            rows[-1]["apart_points"] = max(apart)
    return {"model": package.reference, "threads": threads, "rounds": rounds, "rows": rows}


def _row(arm: str, views: int, pictures: int, precision: str, found: Row) -> Row:
    median = statistics.median(found["wall_ms"])
    return {
        "arm": arm,
        "views": views,
        "pictures": pictures,
        "precision": precision,
        "ms": median,
        "network_ms": statistics.median(found["network_ms"]),
        "p95_ms": float(np.percentile(found["wall_ms"], 95)),
        "per_s": 1000 / statistics.fmean(found["wall_ms"]),
        "cpu_ms": statistics.median(found["cpu_ms"]),
        "said": found["said"],
    }


def markdown(told: Row, kind: str) -> str:
    """The rows as a table; gains against PyTorch with as many views."""
    head = [
        "",
        "views",
        "as",
        "ms an image, median",
        "95 %",
        "network ms",
        "images/s",
        "CPU ms",
        "gain: wall",
        "network",
        "CPU",
    ]
    head += ["furthest apart"]
    lines, base = [], told["rows"][0]
    for row in told["rows"]:
        base = row if row["arm"].startswith("PyTorch") else base
        apart = f"{row['apart_points']:.3f} % points" if "apart_points" in row else "-"
        lines.append(
            [row["arm"], str(row["views"]), row["precision"], f"{row['ms']:.1f}", f"{row['p95_ms']:.1f}"]
            + [f"{row['network_ms']:.1f}", f"{row['per_s']:.1f}", f"{row['cpu_ms']:.1f}"]
            + [f"{base[key] / row[key]:.1f} ×" for key in ("ms", "network_ms", "cpu_ms")]
            + [apart]
        )
    title = f"{told['model']}, {told['rows'][0]['pictures']} {kind}, {told['threads']} threads, {told['rounds']} rounds"
    return table(title, head, lines)


def run(rounds: int = 3) -> None:
    """For `python -m bench`."""
    main(["--rounds", str(rounds)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("AI_NODE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--model", default="skin-lesion")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--data", type=Path, default=data / "dermoscopy", help="labels.csv, pictures and originals")
    parser.add_argument("--pictures", type=int, default=40, help="validation pictures of 256 x 256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    facts, folder = machine(), find_package(options.models, options.model)
    cases = [case for case in skin_cases(options.data / "labels.csv") if case.split == "val"]
    chosen = cases[:: max(1, len(cases) // options.pictures)][: options.pictures]
    small = [data for _, data in sorted(found_pictures(chosen, options.data))]
    large = [path.read_bytes() for path in sorted((options.data / "originals").glob("*.jpg"))]
    figures = {}
    for kind, pictures in (("pictures of 256 x 256", small), ("camera files of 0.4 to 5.7 megapixels", large)):
        figures[kind] = compare(folder, pictures, options.rounds, options.threads)
        if not options.json:
            print(markdown(figures[kind], kind), flush=True)
    print(json.dumps(figures) if options.json else about(facts))
    save("skin", facts, figures)


if __name__ == "__main__":
    main()
