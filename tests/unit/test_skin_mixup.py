"""Mixed copies: the loss of a mixture is the mixture of the losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.test_skin_training import TINY, a_run

pytestmark = pytest.mark.unit


def test_a_mixed_batch_is_learnt_towards_both_truths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path)
    run.how = replace(TINY, mixup=0.4)
    run.network.eval()
    batch, chosen = torch.rand(4, 3, 32, 32), torch.arange(4)
    order, share = torch.tensor([1, 2, 3, 0]), torch.tensor(0.7)
    monkeypatch.setattr(torch, "randperm", lambda _: order)
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda _: share)
    answers, diagnoses = run.network(0.7 * batch + 0.3 * batch[order])
    wanted = 0.7 * run._one_loss(answers, diagnoses, chosen) + 0.3 * run._one_loss(answers, diagnoses, chosen[order])
    assert float(run._loss(batch, chosen).detach()) == pytest.approx(float(wanted.detach()), abs=1e-5)
