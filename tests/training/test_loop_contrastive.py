"""The contrastive objective against InfoNCE written out by hand, with hard negatives of different numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import loop_runs
from loop_runs import contrastive, contrastive_stage, tokenizer_of
from magicmm_training.entries import Entry, Pair
from magicmm_training.loop.collate import ReadEntry, collate
from magicmm_training.loop.contrastive import ContrastiveObjective, ReadPair
from magicmm_training.loop.forward import TrainableModel
from magicmm_training.mining.negative_rows import Margins
from magicmm_training.recipe import Batch, Loss
from one_thread import one_thread as one_thread
from training_engines import LocalEngine


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop_runs.write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def model(base: Path) -> TrainableModel:
    return TrainableModel(loop_runs.load(base), tokenizer_of(base).special.context).requires_grad_(True)


class Judged:
    """Hard negatives in memory: pair n has n % 4 of them, and every second pair margins."""

    fingerprint = "judged"

    def for_query(self, dataset: str, query_id: str) -> tuple[Entry, ...]:
        return tuple(loop_runs.text_entry(f"wrong {query_id} {place}") for place in range(int(query_id) % 4))

    def margins(self, dataset: str, query_id: str) -> Margins | None:
        number = int(query_id)
        return None if number % 2 else Margins(2.0, tuple(-float(place) for place in range(number % 4)), ())


def samples_of(objective: ContrastiveObjective, count: int = 6) -> list[ReadPair]:
    return [objective.sample(place, 0) for place in range(count)]


def vectors(model: TrainableModel, entries: list[ReadEntry]) -> Tensor:
    return torch.cat([model(**collate([entry], fill=0)) for entry in entries])


def by_hand(model: TrainableModel, samples: list[ReadPair], temperature: float = 0.03) -> Tensor:
    """InfoNCE with every query against all positives and all hard negatives of the batch."""
    queries = vectors(model, [pair.query for pair in samples])
    positives = vectors(model, [pair.positive for pair in samples])
    hard = [entry for pair in samples for entry in pair.negatives]
    candidates = torch.cat([positives, vectors(model, hard)]) if hard else positives
    scores = (queries @ candidates.T / temperature).log_softmax(1)
    return -scores.diagonal().mean()


@pytest.mark.parametrize("micro", [None, 1, 4])
@pytest.mark.parametrize("each", [0, 2])
def test_loss_and_gradients_are_infonce_by_hand(
    each: int, micro: int | None, base: Path, model: TrainableModel
) -> None:
    stage = contrastive_stage(
        batch=Batch(per_device=6, micro=micro),
        negatives="judge" if each else None,
        negatives_each=each,
        use_explicit=True,
    )
    objective = contrastive(base, stage, *loop_runs.DATA["mixed"](), negatives=Judged() if each else None)
    samples = samples_of(objective)
    result = objective.step(model, samples, LocalEngine())
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad(set_to_none=True)
    loss = by_hand(model, samples)
    loss.backward()  # type: ignore[no-untyped-call]
    assert result.loss == pytest.approx(float(loss.detach()), abs=1e-4)
    largest = max(float(one.grad.abs().max()) for one in model.parameters() if one.grad is not None)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert (found[name] - parameter.grad).abs().max() <= 1e-5 * largest
    hard = sum(len(pair.negatives) for pair in samples)
    assert result.counters["hard_negatives"] == hard
    assert result.counters["negatives"] == 6 * (5 + hard)


def test_hard_negatives_are_the_first_ones_then_those_of_the_data(base: Path) -> None:
    stage = contrastive_stage(negatives="judge", negatives_each=2, use_explicit=True)
    objective = contrastive(base, stage, *loop_runs.DATA["mixed"](), negatives=Judged())
    texts = [[entry.text for entry in pair.negatives] for pair in samples_of(objective, 6)]
    assert texts[3] == ["wrong 3 0", "wrong 3 1"], "two of three mined, none in the data"
    assert texts[5] == ["wrong 5 0", "not white 0", "not grey 1"], "one mined, two in the data; nothing is repeated"
    assert texts[0] == [] and texts[4] == ["not black 0"]
    plain = contrastive(base, contrastive_stage(), *loop_runs.DATA["mixed"]())
    assert all(not pair.negatives for pair in samples_of(plain))


def test_margins_go_with_their_candidates(base: Path) -> None:
    stage = contrastive_stage(negatives="judge", negatives_each=2, use_explicit=True)
    objective = contrastive(base, stage, *loop_runs.DATA["mixed"](), negatives=Judged())
    margins = [pair.margins for pair in samples_of(objective)]
    assert margins[2] == pytest.approx((2.0, 0.0, -1.0, math.nan, math.nan), nan_ok=True)
    assert margins[3] == pytest.approx((math.nan,) * 3, nan_ok=True)
    assert all(len(one.margins) == len(one.candidates) for one in samples_of(objective))


@pytest.mark.parametrize("micro", [None, 2])
def test_the_judge_s_divergence_is_over_a_query_s_own_list(
    micro: int | None, base: Path, model: TrainableModel
) -> None:
    def step(weight: float) -> tuple[float, Any]:
        stage = contrastive_stage(
            negatives="judge",
            negatives_each=3,
            batch=Batch(per_device=7, micro=micro),
            loss=Loss(judge_weight=weight, judge_temperature=2.0),
        )
        objective = contrastive(base, stage, loop_runs.texts(), negatives=Judged())
        samples = samples_of(objective, 7)
        result = objective.step(model, samples, LocalEngine())
        return result.loss, (samples, result.counters)

    plain, _ = step(0.0)
    loss, (samples, counters) = step(0.5)
    terms = []
    for pair in samples:
        if not math.isnan(pair.margins[0]) and len(pair.margins) > 1:
            with torch.no_grad():
                scores = vectors(model, [pair.query]) @ vectors(model, list(pair.candidates)).T / 0.03
            judge = (torch.tensor(pair.margins) / 2.0).log_softmax(0)
            terms.append(float((judge.exp() * (judge - scores[0].log_softmax(0))).sum()))
    assert counters["judged_queries"] == len(terms) == 2
    assert loss - plain == pytest.approx(0.5 * sum(terms) / len(terms), rel=1e-3)


def test_pairs_with_one_id_or_one_target_do_not_push_each_other_away(base: Path, model: TrainableModel) -> None:
    rows = [loop_runs.pair("twins", number, picture=False) for number in (0, 1, 2)]
    same_target = Pair("other", "twins", rows[1].query, rows[0].positive)
    objective = contrastive(base, contrastive_stage(), loop_runs.Rows("twins", [*rows, same_target]))
    samples = [objective.sample(place, 0) for place in (0, 1, 1, 3)]
    counters = objective.step(model, samples, LocalEngine()).counters
    assert counters["masked_same_id"] == 2, "the two copies of pair 1"
    assert counters["masked_same_content"] == 2, "pair 0 and the one with its target"
    assert counters["negatives"] == 12 - 4


def test_the_fingerprint_names_data_weights_and_negatives(base: Path) -> None:
    stage = contrastive_stage(negatives="judge", negatives_each=2)

    def fingerprint(weight: float | None = None, count: int = 12, negatives: Any = None) -> str:
        data = [(loop_runs.source("texts", weight=weight), loop_runs.texts(count=count))]
        return ContrastiveObjective(stage, data, loop_runs.load(base).config, tokenizer_of(base), negatives).fingerprint

    found = [fingerprint(), fingerprint(2.0), fingerprint(count=11), fingerprint(negatives=Judged())]
    assert len(set(found)) == 4 and fingerprint() == found[0]
