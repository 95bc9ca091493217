"""``python -m ai_engine.evaluation PACKAGE --data DIR --out DIR``: the same as ``ai-node train check``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ai_engine.evaluation.command import SIDES, EvaluationRequest, run_evaluation
from ai_engine.faults import WrongInput
from dicom_node.refusals import Refused


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m ai_engine.evaluation")
    parser.add_argument("package", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", choices=SIDES, default="test")
    parser.add_argument("--step-mm", type=float, action="append", default=[])
    parser.add_argument("--behaviour", type=Path, action="append", default=[])
    parser.add_argument("--no-mirroring", action="store_true")
    parser.add_argument("--precision", default="package")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--postprocessing-table", action="store_true")
    given = parser.parse_args()
    request = EvaluationRequest(
        package=given.package,
        data=given.data,
        out=given.out,
        side=given.side,
        steps_mm=tuple(given.step_mm),
        behaviour=tuple(given.behaviour),
        mirroring=False if given.no_mirroring else None,
        precision=given.precision,
        threads=given.threads,
        with_postprocessing_table=given.postprocessing_table,
    )
    try:
        run_evaluation(request, lambda line: print(line, file=sys.stdout, flush=True))  # noqa: T201
    except WrongInput as wrong:
        parser.error(str(wrong))
    except Refused as refused:
        parser.error(f"{refused.refusal.message} {refused.refusal.advice}")


if __name__ == "__main__":
    main()
