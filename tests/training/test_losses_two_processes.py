"""Two real processes: gathered batches and GradCache together give the gradient of one process with everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import two_process_losses
from magicmm_training.losses.contrastive import ContrastiveBatch, ContrastiveLoss
from magicmm_training.losses.distillation import MISSING
from magicmm_training.recipe import Loss
from one_thread import one_thread as one_thread
from training_engines import LocalEngine
from two_process_losses import CASES, PROCESSES, Embedder, shares

Results = list[tuple[dict[str, Any], dict[str, Tensor]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What both processes wrote: losses with counters, and gradients."""
    folder = tmp_path_factory.mktemp("two")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, two_process_losses.__file__]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(folder / "meeting"), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    return [
        (json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")), load_file(folder / f"{rank}.safetensors"))
        for rank in range(PROCESSES)
    ]


def joined(rows: list[Tensor]) -> ContrastiveBatch:
    """Write the whole batch down as one process would: queries first, then candidates of each share."""
    first, second = (share.batch(part) for share, part in zip(shares(), rows, strict=True))
    assert first.own is not None and second.own is not None
    assert first.margins is not None and second.margins is not None
    width = max(first.own.shape[1], second.own.shape[1])
    own = torch.full((7, width), MISSING)
    margins = torch.full((7, width), torch.nan, dtype=torch.float64)
    own[:3, : first.own.shape[1]] = first.own
    margins[:3, : first.own.shape[1]] = first.margins
    own[3:, : second.own.shape[1]] = torch.where(second.own < 0, second.own, second.own + 6)
    margins[3:, : second.own.shape[1]] = second.margins
    return ContrastiveBatch(
        queries=torch.cat([first.queries, second.queries]),
        candidates=torch.cat([first.candidates, second.candidates]),
        targets=torch.tensor([0, 1, 2, 6, 7, 8, 9]),
        query_ids=torch.cat([first.query_ids, second.query_ids]),
        candidate_ids=torch.cat([first.candidate_ids, second.candidate_ids]),
        candidate_contents=torch.cat([first.candidate_contents, second.candidate_contents]),
        own=own,
        margins=margins,
    )


def plain(name: str) -> tuple[Tensor, dict[str, float], dict[str, Tensor]]:
    """Loss, counters and gradients of the whole batch in one process and one pass, with the same dropout."""
    model = Embedder()
    rows = []
    for share in shares():
        torch.manual_seed(share.seed)
        rows.append(torch.cat([model(micro) for micro in share.micros()]))
    loss, counters = ContrastiveLoss(Loss.model_validate(CASES[name]))(joined(rows))
    loss.backward()  # type: ignore[no-untyped-call]
    return loss, counters, {key: value.grad for key, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradient_of_one(name: str, results: Results) -> None:
    loss, counters, gradients = plain(name)
    assert len(gradients) == 4
    for said, found in results:
        assert said[name]["loss"] == pytest.approx(float(loss.detach()), abs=1e-10)
        assert said[name]["counters"] == pytest.approx(counters)
        for key, wanted in gradients.items():
            assert wanted.abs().max() > 1e-4
            torch.testing.assert_close(found[f"{name}.{key}"], wanted, rtol=0, atol=1e-10)


def test_the_cases_are_different_losses(results: Results) -> None:
    losses = [results[0][0][name]["loss"] for name in CASES]
    assert len({round(loss, 6) for loss in losses}) == len(CASES)


def test_false_negatives_of_the_other_process_are_masked(results: Results) -> None:
    counters = results[0][0]["plain"]["counters"]
    # The pair "a" stands in both processes: each of the two queries meets the other's positive. So does content "B".
    assert counters["masked_same_id"] == 2
    assert counters["masked_same_content"] == 2
    # 7 queries x 16 candidates, without 7 targets and 4 masked.
    assert counters["negatives"] == 7 * 16 - 7 - 4


def test_gradients_are_averaged_once_at_the_end(results: Results) -> None:
    assert [said["plain"]["flags"] for said, _ in results] == [[False, False, True]] * 2


def test_uneven_micro_batches_are_refused_everywhere(results: Results) -> None:
    for said, _ in results:
        code, message = said["uneven"]
        assert code == "argument_invalid"
        assert "3, 2 micro batches" in message


def test_a_wrong_scale_would_be_seen() -> None:
    """The oracle itself: without the factor P of gather.py, gradients would be half as large."""
    _, _, gradients = plain("plain")
    model = Embedder()
    rows = []
    for place, share in enumerate(shares()):
        torch.manual_seed(share.seed)
        part = torch.cat([model(micro) for micro in share.micros()])
        rows.append(part if place == 0 else part.detach())
    loss, _ = ContrastiveLoss(Loss())(joined(rows))
    LocalEngine().backward(loss, last=True)
    weight = model.layers[0].weight
    assert isinstance(weight, Tensor) and weight.grad is not None
    assert not torch.allclose(weight.grad, gradients["layers.0.weight"], atol=1e-4)
