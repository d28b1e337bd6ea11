"""Teaching the multilingual encoder: what is drawn, what is trained, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.nano.languages import Lesson, Teacher, load_base, ridge, save_taught, schedule

WORDS = [*("<s>", "<pad>", "</s>", "<unk>"), *(f"{locale}{number}" for locale in "ed" for number in range(20)), "and"]
LESSON = Lesson(steps=150, batch=8, layers=1, rate=3e-3, ridge=40, english=0.3, pairs=0.3)
WIDTH = 32


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Give a base with two languages: `d7` is what `e7` is in English."""
    folder = tmp_path / "base"
    folder.mkdir()
    rng = np.random.default_rng(0)
    emoji = rng.standard_normal((20, WIDTH)).astype(np.float32)
    emoji /= np.linalg.norm(emoji, axis=1, keepdims=True)
    pairs = [
        [first, second, number % 2] for number, (first, second) in enumerate(rng.integers(0, 16, (12, 2)).tolist())
    ]
    sums = np.stack([emoji[first] + emoji[second] for first, second, _ in pairs])
    facts = {
        "english": [f"e{number}" for number in range(20)],
        "emoji": [{"code": "", "held_out": number >= 16, "labels": {"de": f"d{number}"}} for number in range(20)],
        "pairs": pairs,
        "patterns": {"de": ["{} {}", "{} and {}"]},
    }
    (folder / "texts.json").write_text(json.dumps(facts))
    wanted = {"english": emoji, "emoji": emoji, "pairs": sums / np.linalg.norm(sums, axis=1, keepdims=True)}
    save_file(wanted, folder / "targets.safetensors")
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=70,
            type_vocab_size=1,
            initializer_range=0.3,
        ),
        add_pooling_layer=False,
    )
    save_file({name: value.numpy() for name, value in bert.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"layers": 2, "heads": 4, "vocab": len(WORDS)}))
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_it_learns_with_its_first_layers_and_rows_unchanged(base: Path, tmp_path: Path) -> None:
    model, texts, tokenizer = load_base(base, LESSON.layers)
    teacher = Teacher(model, texts, LESSON, tokenizer)
    teacher.fit_head(np.random.default_rng(LESSON.seed))
    names = [texts.labels["de"][place] for place in texts.taught]
    wanted = texts.wanted["emoji"][texts.taught]
    before = float((teacher.encode(names) * wanted).sum(1).mean())
    teacher.teach()
    after = float((teacher.encode(names) * wanted).sum(1).mean())
    assert after > before + 0.2
    save_taught(tmp_path / "taught", base, model, LESSON, teacher.measure())
    old, new = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "taught"))
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert all(name.startswith("encoder.layer.1.") for name in changed)
    assert len(changed) > 10
    assert set(new) - set(old) == {"head.weight", "head.bias"}
    facts = json.loads((tmp_path / "taught" / "config.json").read_text())
    assert set(facts["held_out"]) == {"de"}
    assert (facts["vocab"], facts["lesson"]["steps"]) == (len(WORDS), 150)


def test_one_seed_gives_one_encoder(base: Path) -> None:
    vectors = []
    for seed in (0, 0, 1):
        model, texts, tokenizer = load_base(base, 1)
        teacher = Teacher(model, texts, replace(LESSON, steps=3, seed=seed), tokenizer)
        teacher.teach()
        vectors.append(teacher.encode(["d1", "e2 and e3"]))
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


def test_held_out_emoji_are_never_drawn(base: Path) -> None:
    model, texts, tokenizer = load_base(base, 1)
    teacher = Teacher(model, texts, LESSON, tokenizer)
    rng = np.random.default_rng(3)
    drawn = {teacher.draw(rng)[0] for _ in range(600)}
    names = {word for text in drawn for word in text.split() if word.startswith("d")}
    assert names == {f"d{number}" for number in range(16)}
    assert any(" and " in text for text in drawn)
    assert {f"e{number}" for number in range(20)} <= drawn


def test_a_vector_does_not_depend_on_its_neighbours(base: Path) -> None:
    model, texts, tokenizer = load_base(base, 1)
    teacher = Teacher(model, texts, LESSON, tokenizer)
    together = teacher.encode(["d1", "e1 and e2 and e3 and e4", "d2 d3"])
    alone = np.concatenate([teacher.encode([text]) for text in ("d1", "e1 and e2 and e3 and e4", "d2 d3")])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_long_text_keeps_its_end_mark(base: Path) -> None:
    model, texts, tokenizer = load_base(base, 1)
    ids = Teacher(model, texts, LESSON, tokenizer).ids(" ".join(["d1"] * 200))
    assert (len(ids), ids[0], ids[-1]) == (64, 0, 2)


def test_ridge_is_least_squares_with_a_penalty() -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((50, 6)).astype(np.float32)
    wanted = rng.standard_normal((50, 3)).astype(np.float32)
    weight, bias = ridge(rows, wanted, 0.7)
    centred = rows - rows.mean(0)
    stacked = np.concatenate([centred, np.sqrt(0.7) * np.eye(6)])
    goal = np.concatenate([wanted - wanted.mean(0), np.zeros((6, 3))])
    expected = np.linalg.lstsq(stacked, goal, rcond=None)[0]
    np.testing.assert_allclose(weight.T, expected, atol=1e-5)
    np.testing.assert_allclose(rows.mean(0) @ weight.T + bias, wanted.mean(0), atol=1e-5)


def test_the_rate_warms_up_and_falls() -> None:
    shares = [schedule(step, 300) for step in range(300)]
    assert shares[0] == pytest.approx(1 / 30)
    assert max(shares) == pytest.approx(1, abs=0.03)
    assert shares[-1] == 0.02
    assert all(first >= second for first, second in pairwise(shares[40:]))


@pytest.mark.parametrize("damage", ["texts", "weights", "config"])
def test_a_broken_base_says_how_to_write_it_again(base: Path, damage: str) -> None:
    path = base / {"texts": "texts.json", "weights": "model.safetensors", "config": "config.json"}[damage]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(MagicError, match=r"multilingual.base") as raised:
        load_base(base, 1)
    assert raised.value.code is ErrorCode.CHECKPOINT_INVALID
