"""Loss and gradients against sentence-transformers, which knows nothing of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer import losses
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from magicmm_training.losses.contrastive import ContrastiveBatch, ContrastiveLoss
from magicmm_training.losses.gradcache import cached_backward
from magicmm_training.recipe import Loss
from one_thread import one_thread as one_thread
from training_engines import LocalEngine

FEATURES, DIM, QUERIES = 6, 8, 5


class Embedder(nn.Module):
    """As much of a SentenceTransformer as its losses ask for; "tokens" are numbers."""

    max_seq_length = FEATURES

    def __init__(self) -> None:
        """Take fixed weights."""
        super().__init__()
        self.layer = nn.Linear(FEATURES, DIM).double()
        generator = torch.Generator().manual_seed(0)
        self.layer.weight.data = torch.randn(DIM, FEATURES, generator=generator, dtype=torch.float64)
        self.layer.bias.data.zero_()
        words = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)  # type: ignore[no-untyped-call]

    def __getitem__(self, place: int) -> nn.Module:
        return self.layer

    def get_embedding_dimension(self) -> int:
        """Length of vectors."""
        return DIM

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return unit rows under the name that losses look for."""
        return {"sentence_embedding": nn.functional.normalize(self.layer(features["input_ids"]), dim=1)}


def inputs(columns: int) -> list[Tensor]:
    """Queries, positives and hard negatives, a tensor [queries, features] each."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(QUERIES, FEATURES, generator=generator, dtype=torch.float64) for _ in range(columns)]


def theirs(make: Callable[[Any], nn.Module], columns: int) -> tuple[float, Tensor]:
    model = Embedder()
    loss = make(model)([{"input_ids": column} for column in inputs(columns)], torch.empty(0))
    loss.backward()
    return float(loss.detach()), gradient(model)


def ours(columns: int, micro: int | None = None, **options: Any) -> tuple[float, Tensor]:
    model = Embedder()
    entries = torch.cat(inputs(columns))
    loss = ContrastiveLoss(Loss.model_validate(options))
    candidates = torch.arange(QUERIES * (columns - 1))
    batch = ContrastiveBatch(
        queries=torch.empty(0),
        candidates=torch.empty(0),
        targets=candidates[:QUERIES],
        query_ids=candidates[:QUERIES],
        candidate_ids=candidates,
        candidate_contents=candidates,
    )
    result = cached_backward(
        lambda part: model({"input_ids": part})["sentence_embedding"],
        entries.split(micro or len(entries)),  # type: ignore[no-untyped-call]
        lambda rows: loss(replace(batch, queries=rows[:QUERIES], candidates=rows[QUERIES:])),
        LocalEngine(),
    )
    return result.loss, gradient(model)


def gradient(model: Embedder) -> Tensor:
    assert model.layer.weight.grad is not None
    assert model.layer.weight.grad.abs().max() > 1e-3
    return model.layer.weight.grad


def check(found: tuple[float, Tensor], wanted: tuple[float, Tensor], factor: float = 1.0, bound: float = 1e-10) -> None:
    assert found[0] * factor == pytest.approx(wanted[0], rel=1e-9)
    torch.testing.assert_close(found[1] * factor, wanted[1], rtol=0, atol=bound)


@pytest.mark.parametrize("temperature", [0.03, 0.2])
@pytest.mark.parametrize("columns", [2, 3, 5])
def test_multiple_negatives_ranking(columns: int, temperature: float) -> None:
    wanted = theirs(lambda model: losses.MultipleNegativesRankingLoss(model, scale=1 / temperature), columns)
    check(ours(columns, temperature=temperature), wanted)


def test_both_directions_averaged() -> None:
    def symmetric(model: Any) -> nn.Module:
        return losses.MultipleNegativesRankingLoss(
            model, scale=5, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
        )

    for columns in (2, 4):
        check(ours(columns, temperature=0.2, symmetric=True), theirs(symmetric, columns))


@pytest.mark.parametrize("micro", [1, 4, 7])
def test_cached_multiple_negatives_ranking(micro: int) -> None:
    def cached(model: Any) -> nn.Module:
        return losses.CachedMultipleNegativesRankingLoss(model, scale=20, mini_batch_size=2)

    found = ours(3, micro, temperature=0.05)
    check(found, theirs(lambda model: losses.MultipleNegativesRankingLoss(model, scale=20), 3))
    check(found, theirs(cached, 3), bound=1e-6)  # theirs differs from their own plain loss by 4e-8


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("columns", [2, 3])
def test_gist_with_the_model_as_its_own_guide(columns: int, margin: float) -> None:
    # Its margin is taken off the positive's score, ours is added.
    def gist(model: Any) -> nn.Module:
        return losses.GISTEmbedLoss(
            model, model, temperature=0.2, margin=-margin, contrast_anchors=False, contrast_positives=False
        )

    found = ours(columns, temperature=0.2, false_negatives={"margin": margin})
    check(found, theirs(gist, columns))
    assert found[0] < ours(columns, temperature=0.2)[0]  # something was masked


@pytest.mark.parametrize("micro", [None, 4])
def test_matryoshka_is_their_sum_divided_by_the_number_of_dimensions(micro: int | None) -> None:
    def nested(model: Any) -> nn.Module:
        return losses.MatryoshkaLoss(
            model, losses.MultipleNegativesRankingLoss(model, scale=10), matryoshka_dims=[DIM, 4, 2]
        )

    check(ours(3, micro, temperature=0.1, matryoshka=(2, 4)), theirs(nested, 3), factor=3)
