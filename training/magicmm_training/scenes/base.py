"""A tiny checkpoint in InternVL3's form with random weights, and a tokenizer that knows the words of a data set."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.config import Head, LanguageConfig, ModelConfig, VisionConfig
from magicmm_model.config_json import Layout
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_model.model import MagicModel
from magicmm_model.saving import save_model
from magicmm_model.tokenizer import SPELLINGS
from magicmm_training.scenes.cases import PAPER_ROWS
from magicmm_training.scenes.drawing import SIDE
from magicmm_training.scenes.writing import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterator

PATCH = 8
"""A cell of a scene is 4 x 4 patches: after compression and unshuffle, one visual token."""
GAIN = 1.0
"""Standard deviation of weights x root of their input width. With so few layers, none need be smaller: what a picture
says must reach the last token from the start."""
POSITION = 0.7
"""Standard deviation of the position embeddings: visual tokens must tell their places apart from the start, or the
language model takes most of its training to find out which is which."""
TOKEN = 0.05
"""Standard deviation of the token table."""
_VOCABULARY = 600
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
"""Where words may end; Qwen's rules but for trailing blanks."""


def tiny_config(vocab_size: int, width: int = 96, layers: int = 3, vision_width: int = 64) -> ModelConfig:
    """Return the shapes of a model that two cores train in minutes.

    Args:
        vocab_size: Rows of the token table.
        width: Of the language model, and of the vectors.
        layers: Of the language model; the vision tower has two.
        vision_width: Of the vision tower.
    """
    return ModelConfig(
        VisionConfig(vision_width, 2, 2, 2 * vision_width, SIDE, PATCH),
        LanguageConfig(width, layers, 4, 2, 2 * width, vocab_size, rope_theta=1e4, max_positions=2048),
        head=Head.TIED,
        system_prompt=False,
    )


def write_base(
    out: Path | str, scenes: Path | str, width: int = 96, layers: int = 3, vision_width: int = 64, seed: int = 0
) -> None:
    """Write a random checkpoint whose tokenizer was trained on the words of a data set.

    Args:
        out: A folder that does not exist yet.
        scenes: A folder of `write_scenes`.
        width: Of the language model, and of the vectors.
        layers: Of the language model.
        vision_width: Of the vision tower.
        seed: Of the weights.

    Raises:
        MagicError: `source_unavailable` for a folder without scenes; see `save_model` for the others.
    """
    tokenizer = _train_tokenizer(_texts(Path(scenes)))
    model = MagicModel(tiny_config(tokenizer.get_vocab_size(), width, layers, vision_width))
    randomise(model, seed)
    with TemporaryDirectory() as folder:
        tokenizer.save(str(Path(folder) / "tokenizer.json"))
        save_model(model, out, Layout.HF, Path(folder))


@torch.no_grad()
def randomise(model: MagicModel, seed: int) -> None:
    """Fill a model with values from which training converges.

    Matrices are normal with deviation `GAIN` / root of their input width; gains are 1, biases 0.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        if name.endswith("position_embedding"):
            spread = POSITION
        elif name.endswith(("embed_tokens.weight", "class_embedding")):
            spread = TOKEN
        else:
            spread = GAIN / parameter[0].numel() ** 0.5
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)


def _train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer of Qwen's kind, with InternVL's special tokens after its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_WORD), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPELLINGS.values()])
    return tokenizer


def _texts(scenes: Path) -> Iterator[str]:
    """Yield all words of the training files, and what prompts set around them, often enough to become whole words."""
    found: list[str] = []
    try:
        for task in TASKS:
            for row in _rows(scenes / f"train-{task}.jsonl"):
                found += [f" {side['text']}" for side in (row["query"], row["positive"]) if "text" in side]
        for name in ("train-look", "train-match"):
            for row in _rows(scenes / f"{name}.jsonl"):
                found += [part for turn in row["conversations"] for part in turn["value"].split("<image>")]
    except OSError as error:
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            f"{scenes} holds no scenes: {error.strerror or error}.",
            "Write them with magicmm_training.scenes first.",
        ) from None
    lines = [text for group in TASKS.values() for text in _prompt_lines(TaskGroup(group))]
    yield from found
    yield from lines * 50


def _prompt_lines(group: TaskGroup) -> list[str]:
    asked = INSTRUCTIONS[group][PAPER_ROWS[group]]
    return [
        f"user\nInstruct: {line}\nassistant\nQuery: Text: 1 2 3 4 5 6 Yes No" for line in (asked.query, asked.target)
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
