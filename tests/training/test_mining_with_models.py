"""Mining with a model in torch, and its file as the contrastive objective reads it: texts, pictures and both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loop_runs
from magicmm_model import TorchEmbedder
from magicmm_model.embedder import Item
from magicmm_training.entries import Entry, Pair
from magicmm_training.judge.judge import judge
from magicmm_training.judge.own import OwnJudge
from magicmm_training.judge.verdict import Verdict
from magicmm_training.loop.embedding import TorchEntryEmbedder
from magicmm_training.mining.mine import mine
from magicmm_training.mining.negatives import Negatives
from magicmm_training.recipe import Judge, JudgeModel, Mining
from one_thread import one_thread as one_thread
from training_pairs import MemoryPairs, candidate, picture, query

FAST: dict[str, Any] = loop_runs.FAST
COLOURS = [picture((40 * n, 255 - 40 * n, 99)) for n in range(6)]


def pairs() -> MemoryPairs:
    """Return captions, pictures, and pictures with words, two of each."""
    rows = [
        (query("a dog"), candidate(None, COLOURS[0])),
        (query("sunset", COLOURS[1]), candidate("on the beach")),
        (query(None, COLOURS[2]), candidate("a page", COLOURS[3])),
        (query("a red dog"), candidate(None, COLOURS[4])),
        (query("text", COLOURS[5]), candidate("on a page")),
        (query(None, COLOURS[0]), candidate("the query of another", COLOURS[2])),
    ]
    return MemoryPairs([Pair(str(n), "toys", asked, target) for n, (asked, target) in enumerate(rows)])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop_runs.write_base(tmp_path_factory.mktemp("base") / "tiny")


def ranked(base: Path, data: MemoryPairs, place: int) -> list[Entry]:
    """Return the candidates that are not true, best first, by the plain embedder, one at a time."""
    embedder = TorchEmbedder.open(base, **FAST)

    def vector(entry: Entry) -> np.ndarray:
        found: np.ndarray = embedder.embed([Item(entry.text, entry.image)], entry.role)[0].vector.numpy()
        return found

    asked, own = data[place].query, data[place].positive
    others = [
        pair.positive for pair in data if pair.positive.content_id() not in (own.content_id(), asked.content_id())
    ]
    return sorted(others, key=lambda entry: -float(vector(entry) @ vector(asked)))


def test_the_model_decides_on_ranks(base: Path, tmp_path: Path) -> None:
    data, stage = pairs(), Mining(name="mine", init="x", data=(), ranks=(2, 3), each=2)
    mine(stage, [data], TorchEntryEmbedder.open(base, batch=3, **FAST), tmp_path)
    negatives = Negatives.load(tmp_path, [data])
    for place, pair in enumerate(data):
        assert list(negatives.for_query("toys", pair.id)) == ranked(base, data, place)[1:3]
    contrastive = loop_runs.contrastive_stage(negatives="mine", negatives_each=2)
    objective = loop_runs.contrastive(base, contrastive, data, negatives=negatives)  # type: ignore[arg-type]
    sample = objective.sample(1, 0)
    assert [entry.content for entry in sample.negatives] == [e.content_id() for e in ranked(base, data, 1)[1:3]]
    assert all(map(math.isnan, sample.margins))


def test_margins_of_the_judge_reach_the_loss(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model says neither yes nor no; its margins count here as answers."""
    own = OwnJudge(TorchEmbedder.open(base, head=True, **FAST))
    answer = own.answer
    monkeypatch.setattr(
        own, "answer", lambda messages: [Verdict((margin or 0) > 1, margin) for _, margin in answer(messages)]
    )
    data = pairs()
    stage = Judge(name="judge", init="x", data=(), judge=JudgeModel(kind="own", path="x"), top=4, each=3, batch=5)
    report = judge(stage, [data], TorchEntryEmbedder.open(base, **FAST), own, tmp_path)
    negatives = Negatives.load(tmp_path, [data])
    contrastive = loop_runs.contrastive_stage(negatives="judge", negatives_each=3)
    objective = loop_runs.contrastive(base, contrastive, data, negatives=negatives)  # type: ignore[arg-type]
    for place, pair in enumerate(data):
        top = ranked(base, data, place)[:4]
        sample, approved = objective.sample(place, 0), negatives.approved("toys", pair.id)
        rejected = [entry for entry in top if entry not in approved][:3]
        assert [entry.content for entry in sample.negatives] == [entry.content_id() for entry in rejected]
        assert len(sample.margins) == 1 + len(rejected)
        assert all(margin <= 1 for margin in sample.margins[1:])
    counts = report.sets[0]
    assert counts.asked == counts.approved + counts.rejected + counts.positives == 6 * 5
