"""The reranker's loss, held against transformers' logits; it learns a rule, and its scores show that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import loop_runs
from judged_pairs import TOYS, beach_pairs, judged, reranker_stage
from magicmm import ErrorCode, MagicError
from magicmm_model.embedder import TorchEmbedder
from magicmm_model.generate import next_token_logits
from magicmm_model.templates import Prompt
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_training.judge.verdict import AnswerTokens
from magicmm_training.loop.forward import TrainableModel
from magicmm_training.loop.logs import read_log
from magicmm_training.loop.packing import Chat
from magicmm_training.recipe import Batch
from magicmm_training.reranker.inference import Reranker
from magicmm_training.reranker.objective import RankSample, RerankerObjective
from magicmm_training.reranker.prompts import listwise_message
from one_thread import one_thread as one_thread
from tiny_checkpoints import write_checkpoint
from training_engines import LocalEngine
from training_pairs import MemoryPairs, candidate, picture, query

FAST: dict[str, Any] = loop_runs.FAST


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    return folder, write_checkpoint(folder)


def objective(base: Path, out: Path, pairs: MemoryPairs, **changes: Any) -> RerankerObjective:
    config = loop_runs.load(base).config
    tokenizer = PromptTokenizer(base / "tokenizer.json")
    return RerankerObjective(reranker_stage(**changes), [(TOYS, pairs)], config, tokenizer, judged(out, pairs))


def trainable(base: Path) -> TrainableModel:
    model = loop_runs.load(base).requires_grad_(True)
    return TrainableModel(model, PromptTokenizer(base / "tokenizer.json").special.context)


def by_transformers(hf: Any, chat: Chat) -> float:
    """Return - log P(answer | question), token by token, from logits of the whole sequence."""
    logits = hf(input_ids=torch.tensor([chat.ids])).logits[0].double().log_softmax(-1)
    answers = [place for place, marked in enumerate(chat.answers) if marked]
    assert answers == list(range(answers[0], len(chat.ids)))
    return -sum(float(logits[place - 1, chat.ids[place]]) for place in answers)


def test_the_answers_carry_the_loss_and_nothing_else(base: tuple[Path, Any], tmp_path: Path) -> None:
    folder, hf = base
    built = objective(folder, tmp_path, beach_pairs(), weights=(1.0, 0.5))
    samples = [built.sample(place, place) for place in range(3)]
    with torch.no_grad():
        pointwise = sum(by_transformers(hf, chat) for one in samples for chat in (one.right, one.wrong)) / 3
        listwise = sum(by_transformers(hf, one.listed) for one in samples) / 3
    result = built.step(trainable(folder), samples, LocalEngine())
    assert result.counters["pointwise"] == pytest.approx(pointwise, abs=1e-4)
    assert result.counters["listwise"] == pytest.approx(listwise, abs=1e-4)
    assert result.loss == pytest.approx(pointwise + 0.5 * listwise, abs=1e-4)
    chats = [chat for one in samples for chat in (one.right, one.wrong, one.listed)]
    assert result.counters["tokens"] == sum(len(chat.ids) for chat in chats)


def test_questions_and_answers_belong_together(base: tuple[Path, Any], tmp_path: Path) -> None:
    built = objective(base[0], tmp_path, beach_pairs())
    tokenizer = PromptTokenizer(base[0] / "tokenizer.json")

    def answer(chat: Chat) -> str:
        return tokenizer.decode([token for token, marked in zip(chat.ids, chat.answers, strict=True) if marked])

    for seed in range(8):
        one = built.sample(4, seed)
        assert (answer(one.right), answer(one.wrong)) == ("yes", "no")
        assert "Target: a dog on the beach" in tokenizer.decode(one.right.ids)
        assert "Target: printed page" in tokenizer.decode(one.wrong.ids)
        listed = tokenizer.decode(one.listed.ids)
        assert f"({answer(one.listed)}) a dog on the beach" in listed
        assert listed.count("beach") == 1
        assert 2 <= listed.count("printed page") <= 5


class Watched(nn.Module):
    """Notes which places of the logits get a gradient."""

    def __init__(self, inner: TrainableModel) -> None:
        super().__init__()
        self.inner = inner
        self.touched: list[tuple[list[list[int]], list[list[int]]]] = []

    def forward(self, ids: torch.Tensor, pixels: Any = None, *, targets: torch.Tensor) -> torch.Tensor:
        logits = self.inner(ids, pixels, places=torch.arange(ids.numel())).unflatten(0, ids.shape)
        logits.register_hook(lambda grad: self.touched.append((ids.tolist(), (grad != 0).any(-1).int().tolist())))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")


def test_gradients_reach_answer_tokens_only(base: tuple[Path, Any], tmp_path: Path) -> None:
    built = objective(base[0], tmp_path, beach_pairs())
    samples = [built.sample(place, 1) for place in range(2)]
    model = Watched(trainable(base[0]))
    built.step(model, samples, LocalEngine())
    chats = {chat.ids: chat.answers for one in samples for chat in (one.right, one.wrong, one.listed)}
    rows = [row for ids, marks in model.touched for row in zip(ids, marks, strict=True)]
    assert len(rows) == len(chats) == 6
    for ids, marks in rows:
        answers = next(found for known, found in chats.items() if tuple(ids[: len(known)]) == known)
        # A place predicts the token after it.
        expected = [*answers[1:], *[False] * (len(ids) - len(answers) + 1)]
        assert marks == [int(mark) for mark in expected]


def gradients(model: TrainableModel) -> torch.Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def test_micro_batches_change_nothing(base: tuple[Path, Any], tmp_path: Path) -> None:
    pairs = beach_pairs(pictures=True)
    found = []
    for micro in (None, 1, 2):
        built = objective(base[0], tmp_path / str(micro), pairs, batch=Batch(per_device=3, micro=micro))
        model, engine = trainable(base[0]), LocalEngine()
        result = built.step(model, [built.sample(place, 5) for place in range(3)], engine)
        found.append((result, gradients(model)))
        assert engine.flags == [False] * (len(engine.flags) - 1) + [True]
    for result, gradient in found[1:]:
        assert result.loss == pytest.approx(found[0][0].loss, abs=1e-4)
        assert torch.allclose(gradient, found[0][1], atol=1e-4)


class SecondOfTwo(LocalEngine):
    """As if another process had the same samples."""

    processes = 2
    rank = 1

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor])


def test_gradients_are_those_of_the_mean_over_processes(base: tuple[Path, Any], tmp_path: Path) -> None:
    built = objective(base[0], tmp_path, beach_pairs())
    samples = [built.sample(place, 5) for place in range(2)]
    one, two = trainable(base[0]), trainable(base[0])
    alone = built.step(one, samples, LocalEngine())
    both = built.step(two, samples, SecondOfTwo())
    assert both.loss == pytest.approx(alone.loss, abs=1e-5)
    assert both.counters["tokens"] == 2 * alone.counters["tokens"]
    assert torch.allclose(gradients(two), gradients(one), atol=1e-5)


def test_a_list_that_is_too_long_loses_its_last_negatives(base: tuple[Path, Any], tmp_path: Path) -> None:
    seen = picture((9, 99, 9))
    pairs = beach_pairs()
    first = pairs[0]
    pages = tuple(candidate(f"printed page {n}", seen) for n in range(7))
    pairs.pairs = [type(first)(first.id, first.dataset, first.query, first.positive, pages), *pairs.pairs[1:]]
    long = objective(base[0], tmp_path / "long", pairs, listwise=(5, 5), max_tokens=900).sample(3, 0)
    short = objective(base[0], tmp_path / "short", pairs, listwise=(5, 5), max_tokens=450).sample(3, 0)
    tokenizer = PromptTokenizer(base[0] / "tokenizer.json")
    assert tokenizer.decode(long.listed.ids).count("printed page") == 5
    assert 1 <= tokenizer.decode(short.listed.ids).count("printed page") < 5
    assert "beach" in tokenizer.decode(short.listed.ids)
    assert len(short.listed.ids) <= 450


def test_a_question_that_cannot_fit_is_a_broken_sample(base: tuple[Path, Any], tmp_path: Path) -> None:
    built = objective(base[0], tmp_path, beach_pairs(pictures=True), max_tokens=150)
    with pytest.raises(MagicError) as caught:
        built.sample(1, 0)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_the_fingerprint_names_the_judgement(base: tuple[Path, Any], tmp_path: Path) -> None:
    pairs = beach_pairs()
    config, tokenizer = loop_runs.load(base[0]).config, PromptTokenizer(base[0] / "tokenizer.json")
    prints = [
        RerankerObjective(
            reranker_stage(), [(TOYS, pairs)], config, tokenizer, judged(tmp_path / name, pairs, counts)
        ).fingerprint
        for name, counts in (("a", None), ("b", None), ("c", [3] * 12))
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.fixture(scope="module")
def trained(base: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reranker")
    built = objective(base[0], out / "judge", beach_pairs(), steps=25)
    return loop_runs.run(base[0], reranker_stage(steps=25), built, out / "run")


def test_it_learns_a_rule(trained: Path) -> None:
    rows = read_log(trained.parent)
    for name in ("pointwise", "listwise"):
        values = [row[name] for row in rows]
        assert sum(values[-4:]) < 0.5 * sum(values[:4]), name


def test_scores_follow_the_rule_on_what_was_never_seen(base: tuple[Path, Any], trained: Path) -> None:
    asked = query("sunset 77")
    entries = [candidate(f"{words} {n}") for n in range(50, 54) for words in ("a dog on the beach", "printed page")]
    scores = Reranker.open(trained, dtype=torch.float32, **FAST).scores(asked, entries)
    assert scores.dtype == np.float32
    assert scores[::2].min() > scores[1::2].max()
    assert scores[::2].min() > 0 > scores[1::2].max()
    before = Reranker.open(base[0], dtype=torch.float32, **FAST).scores(asked, entries)
    assert not np.allclose(before, scores, atol=0.5)


# -- inference -------------------------------------------------------------------------------------------------------

BLUE = picture((0, 0, 255))
ENTRIES = [candidate("a dog"), candidate(None, BLUE), candidate("a printed page of text; " * 5), candidate("red", BLUE)]


def test_scores_are_log_odds_of_the_next_token(base: tuple[Path, Any]) -> None:
    embedder = TorchEmbedder.open(base[0], head=True, **FAST)
    reranker = Reranker(embedder, batch=3)
    asked = query("in blue", picture((255, 0, 0)))
    scores = reranker.scores(asked, ENTRIES)
    tokens = AnswerTokens.of(embedder.tokenizer.encode)
    for score, entry in zip(scores, ENTRIES, strict=True):
        question = reranker._reader.pointwise(reranker._reader.show(asked), reranker._reader.show(entry))
        pixels = torch.cat(question.tiles)
        chances = next_token_logits(embedder, [Prompt(question.ids)], pixels)[0].double().softmax(-1)
        odds = chances[list(tokens.yes)].sum().log() - chances[list(tokens.no)].sum().log()
        assert score == pytest.approx(float(odds), abs=1e-4)


def test_cost_is_counted(base: tuple[Path, Any]) -> None:
    reranker = Reranker(TorchEmbedder.open(base[0], head=True, **FAST), batch=4)
    assert reranker.cost.per_query() == {}
    with_picture, without = query("in blue", picture((255, 0, 0))), query("in blue")
    reranker.scores(with_picture, ENTRIES)
    assert (reranker.cost.queries, reranker.cost.pairs, reranker.cost.tiles) == (1, 4, 3)
    first = reranker.cost.tokens
    reranker.scores(without, ENTRIES[:2])
    assert (reranker.cost.queries, reranker.cost.pairs, reranker.cost.tiles) == (2, 6, 4)
    shown = [reranker._reader.show(entry) for entry in (without, *ENTRIES[:2])]
    assert reranker.cost.tokens - first == sum(len(reranker._reader.pointwise(shown[0], one).ids) for one in shown[1:])
    assert reranker.cost.per_query()["pairs"] == 3
    assert reranker.cost.seconds > 0


def test_no_candidates_have_no_scores(base: tuple[Path, Any]) -> None:
    reranker = Reranker(TorchEmbedder.open(base[0], head=True, **FAST))
    assert reranker.scores(query("a dog"), []).shape == (0,)


def test_broken_pictures_are_said(base: tuple[Path, Any]) -> None:
    reranker = Reranker(TorchEmbedder.open(base[0], head=True, **FAST))
    with pytest.raises(MagicError) as caught:
        reranker.scores(query("a dog"), [candidate(None, b"nothing")])
    assert caught.value.code is ErrorCode.IMAGE_INVALID


def test_a_model_without_head_is_refused(base: tuple[Path, Any]) -> None:
    reranker = Reranker(TorchEmbedder.open(base[0], **FAST))
    with pytest.raises(MagicError, match="no head"):
        reranker.scores(query("a dog"), ENTRIES[:1])


def test_evaluation_can_use_it(base: tuple[Path, Any]) -> None:
    from magicmm_training.evaluation.rerank import PairScorer, Reordering

    scorer: PairScorer = Reranker.open(base[0], dtype=torch.float32, **FAST)
    embedded = np.linspace(0.9, 0.1, 4, dtype=np.float32)
    reordered = Reordering(scorer, 3).reorder(query("a dog"), ENTRIES, np.arange(4), embedded)
    expected = scorer.scores(query("a dog"), ENTRIES[:3])
    assert np.argsort(-reordered).tolist() == [*np.argsort(-expected).tolist(), 3]


def test_lists_are_asked_in_the_words_of_the_snapshot(base: tuple[Path, Any], tmp_path: Path) -> None:
    pairs = beach_pairs()
    sample: RankSample = objective(base[0], tmp_path, pairs, listwise=(2, 2)).sample(4, 0)
    lines = sample.listed.texts[0].splitlines()
    entries = [candidate(line.partition(") ")[2]) for line in lines[2:-1]]
    assert sample.listed.texts[0] == listwise_message(pairs[4].query, entries).text
