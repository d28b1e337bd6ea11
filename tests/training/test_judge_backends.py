"""Local judges, held against transformers' own logits on the same weights."""

from __future__ import annotations

import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny_checkpoints
from magicmm import ErrorCode, MagicError
from magicmm_model.embedder import TorchEmbedder
from magicmm_training.judge.endpoint import EndpointJudge
from magicmm_training.judge.message import Message, Picture
from magicmm_training.judge.opening import open_judge
from magicmm_training.judge.own import OwnJudge
from magicmm_training.judge.prompts import judge_message
from magicmm_training.judge.transformers_folder import TransformersJudge
from magicmm_training.judge.verdict import AnswerTokens, Verdict
from magicmm_training.recipe import JudgeModel
from one_thread import one_thread as one_thread
from tiny_llava import TEMPLATE, write_llava
from training_pairs import candidate, picture, query

RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255), 50)
MESSAGES = [
    judge_message(query("a dog", None, "Find it."), candidate("on the beach")),
    judge_message(query("a dog at sunset"), candidate(None, RED)),
    judge_message(query("in blue", RED), candidate(None, BLUE)),
    judge_message(query("some text"), candidate("a printed page of text; " * 4)),
]


def by_hand(logits: Tensor, yes: set[int], no: set[int]) -> float:
    chances = logits.double().softmax(-1)
    return float(torch.log(chances[sorted(yes)].sum()) - torch.log(chances[sorted(no)].sum()))


# -- reading logits --------------------------------------------------------------------------------------------------

WORDS = {"yes": [5], "Yes": [6], "YES": [7, 8], " yes": [9], "no": [15], "No": [16], " No": [17], "NO": [18, 8]}


def encode(text: str) -> list[int]:
    return WORDS.get(text, [99, 98])


def test_whole_words_of_all_spellings_count() -> None:
    assert AnswerTokens.of(encode) == AnswerTokens((5, 6, 9), (15, 16, 17))


def test_the_plain_word_counts_by_its_beginning() -> None:
    assert AnswerTokens.of(lambda text: [ord(letter) for letter in text]) == AnswerTokens((ord("y"),), (ord("n"),))
    words = {" yes": [9], " no": [19]}
    tokens = AnswerTokens.of(lambda text: words.get(text, [ord(letter) for letter in text]))
    assert tokens == AnswerTokens((9, ord("y")), (19, ord("n")))


def test_answers_that_begin_alike_are_refused() -> None:
    with pytest.raises(MagicError) as caught:
        AnswerTokens.of(lambda text: [1, *map(ord, text)])
    assert caught.value.code is ErrorCode.MODEL_MISMATCH


@pytest.mark.parametrize(
    ("scores", "approved"),
    [({5: 2.0, 15: 1.0}, True), ({16: 3.0, 9: 2.5}, False), ({3: 9.0, 5: 8.0}, None), ({5: 4.0, 15: 4.0}, None)],
)
def test_the_most_likely_token_must_be_an_answer(scores: dict[int, float], approved: bool | None) -> None:
    logits = torch.full((1, 20), -5.0)
    for token, score in scores.items():
        logits[0, token] = score
    tokens = AnswerTokens((5, 6, 9), (15, 16, 17))
    verdict = tokens.verdicts(logits)[0]
    assert verdict.approved is approved
    assert verdict.margin == pytest.approx(by_hand(logits[0], {5, 6, 9}, {15, 16, 17}), abs=1e-6)


def test_logits_that_are_not_finite_stop_the_judge() -> None:
    logits = torch.zeros(2, 20)
    logits[1, 5] = torch.nan
    with pytest.raises(MagicError) as caught:
        AnswerTokens((5,), (15,)).verdicts(logits)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


# -- a checkpoint of ours --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("own") / "tiny"
    return folder, tiny_checkpoints.write_checkpoint(folder)


def test_margins_of_our_model_are_those_of_transformers(checkpoint: tuple[Path, Any]) -> None:
    folder, hf = checkpoint
    embedder = TorchEmbedder.open(folder, compression=1, head=True)
    yes, no = ({embedder.tokenizer.encode(word)[0]} for word in ("yes", "no"))
    spelt = [f"{blank}{word}" for blank in ("", " ") for word in ("yes", "Yes", "YES", "no", "No", "NO")]
    assert all(len(embedder.tokenizer.encode(word)) > 1 for word in spelt)
    judge = OwnJudge(embedder)
    text_only = [MESSAGES[0], MESSAGES[3]]
    for message, verdict in zip(text_only, judge.answer(text_only), strict=True):
        ids = judge._reader.read(message)[0].ids
        logits = hf(input_ids=torch.tensor([ids])).logits[0, -1].detach()
        assert verdict.margin == pytest.approx(by_hand(logits, yes, no), abs=1e-4)
        assert (verdict.approved is None) == (int(logits.argmax()) not in yes | no)


def test_a_batch_of_our_model_is_what_each_gets_alone(checkpoint: tuple[Path, Any]) -> None:
    judge = OwnJudge.open(checkpoint[0], dtype=torch.float32)
    together = judge.answer(MESSAGES)
    alone = [judge.answer([message])[0] for message in MESSAGES]
    assert [verdict.approved for verdict in together] == [verdict.approved for verdict in alone]
    assert [verdict.margin for verdict in together] == pytest.approx([verdict.margin for verdict in alone], abs=1e-4)
    assert len({verdict.margin for verdict in together}) == len(MESSAGES)
    assert judge.answer([]) == []


def test_pictures_decide(checkpoint: tuple[Path, Any]) -> None:
    judge = OwnJudge.open(checkpoint[0], dtype=torch.float32)
    asked = query("a dog")
    red, blue = judge.answer([judge_message(asked, candidate(None, colour)) for colour in (RED, BLUE)])
    assert red.margin != blue.margin


def test_our_fingerprint_names_the_weights(checkpoint: tuple[Path, Any], tmp_path: Path) -> None:
    first, second = (OwnJudge.open(checkpoint[0], dtype=torch.float32) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    second._embedder.model.language.norm.weight.data += 1
    assert OwnJudge(second._embedder).fingerprint != first.fingerprint


# -- a folder of transformers ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("llava") / "tiny"
    return folder, write_llava(folder)


@pytest.fixture(scope="module")
def foreign(llava: tuple[Path, Any]) -> TransformersJudge:
    return TransformersJudge(llava[0], dtype=torch.float32)


def rendered(message: Message) -> tuple[str, list[Image.Image]]:
    """Return what the template must give, and the pictures as they were made."""
    words = "".join("<image>" if isinstance(part, Picture) else part for part in message.parts)
    sides = {RED: ((255, 0, 0), 32), BLUE: ((0, 0, 255), 50)}
    pictures = [Image.new("RGB", (side, side), colour) for colour, side in (sides[p.image] for p in message.pictures)]  # type: ignore[index]
    return f"user: {words}\nassistant: ", pictures


def test_margins_of_a_foreign_model_are_its_own(llava: tuple[Path, Any], foreign: TransformersJudge) -> None:
    folder, model = llava
    transformers: Any = import_module("transformers")
    processor = transformers.AutoProcessor.from_pretrained(folder)
    yes, no = (
        {ids[0] for word in words if len(ids := processor.tokenizer.encode(word)) == 1}
        for words in (("yes", "Yes", "YES", " yes", " Yes", " YES"), ("no", "No", "NO", " no", " No", " NO"))
    )
    assert yes and no
    for message, verdict in zip(MESSAGES, foreign.answer(MESSAGES), strict=True):
        text, pictures = rendered(message)
        inputs = processor(text=text, images=pictures or None, return_tensors="pt")
        logits = model(**inputs).logits[0, -1].detach()
        assert verdict.margin == pytest.approx(by_hand(logits, yes, no), abs=1e-4)
        assert (verdict.approved is None) == (int(logits.argmax()) not in yes | no)
    assert foreign.answer([]) == []


def test_a_picture_that_is_none_is_said(foreign: TransformersJudge) -> None:
    with pytest.raises(MagicError) as caught:
        foreign.answer([judge_message(query("a dog"), candidate(None, b"nothing"))])
    assert caught.value.code is ErrorCode.IMAGE_INVALID


def test_the_fingerprint_names_the_files(llava: tuple[Path, Any], foreign: TransformersJudge) -> None:
    assert TransformersJudge(llava[0], dtype=torch.float32).fingerprint == foreign.fingerprint
    assert TransformersJudge(llava[0], dtype=torch.bfloat16).fingerprint != foreign.fingerprint
    template = llava[0] / "chat_template.jinja"
    template.write_text(TEMPLATE + " ")
    try:
        assert TransformersJudge(llava[0], dtype=torch.float32).fingerprint != foreign.fingerprint
    finally:
        template.write_text(TEMPLATE)


def test_folders_that_cannot_be_read_are_said(tmp_path: Path, llava: tuple[Path, Any]) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(MagicError, match="transformers cannot read") as caught:
            TransformersJudge(folder)
        assert caught.value.code is ErrorCode.CHECKPOINT_INVALID


def test_what_the_library_says_is_passed_on(monkeypatch: pytest.MonkeyPatch, llava: tuple[Path, Any]) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ImportError("\nThe processor requires the Torchvision library.\nInstall it.")

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", fail)
    with pytest.raises(MagicError, match="requires the Torchvision library\\. Download"):
        TransformersJudge(llava[0])


def test_a_processor_without_chat_template_is_said(llava: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(llava[0], folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(MagicError, match="has no chat template"):
        TransformersJudge(folder)


def test_transformers_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MagicError, match="needs transformers"):
        TransformersJudge(tmp_path)


# -- what a recipe names ---------------------------------------------------------------------------------------------


def test_a_recipe_opens_each_kind(checkpoint: tuple[Path, Any], llava: tuple[Path, Any], tmp_path: Path) -> None:
    own = open_judge(JudgeModel(kind="own", path="restoration", dtype="float32"), checkpoint[0])
    assert isinstance(own, OwnJudge)
    assert own._embedder.model.language.norm.weight.dtype == torch.float32
    local = open_judge(JudgeModel(kind="transformers", path="x"), llava[0])
    assert isinstance(local, TransformersJudge)
    assert local._model.dtype == torch.bfloat16
    server = open_judge(JudgeModel(kind="endpoint", path="http://127.0.0.1:1/v1", model="m"), tmp_path)
    assert isinstance(server, EndpointJudge)
    assert server.answer([]) == []
    with pytest.raises(MagicError, match="has no model"):
        open_judge(JudgeModel(kind="endpoint", path="http://127.0.0.1:1/v1"), tmp_path)


def test_verdicts_are_plain() -> None:
    assert Verdict(True, 1.5) == (True, 1.5)
