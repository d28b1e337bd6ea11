"""Photos and captions from a folder: what is taken, what is skipped and why, and what stands in for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from magicmm import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.samples import prepare, read_samples, synthetic_samples
from tiny_checkpoints import write_checkpoint


def write_photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four photos, one of them twice, one in a subfolder; and files that are none."""
    for seed, name in enumerate(("a.png", "b.jpg", "c.PNG", "sub/d.png")):
        write_photo(tmp_path / name, seed)
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "table.csv").write_text("1,2")
    write_photo(tmp_path / ".hidden" / "e.png", 9)
    return tmp_path


def test_every_readable_photo_is_taken_once_and_the_others_are_named(folder: Path) -> None:
    found = read_samples(folder, 100)
    names = [path.relative_to(folder).as_posix() for path in found.photos if isinstance(path, Path)]
    assert [name for name in names if name not in ("a.png", "copy.png")] == ["b.jpg", "c.PNG", "sub/d.png"]
    assert len(names) == 4
    reasons = sorted(reason for _, reason in found.skipped)
    assert len(reasons) == 4
    assert {"duplicate", "empty_file", "not_an_image"} <= set(reasons)
    assert not found.synthetic
    assert "SYNTHETIC" not in found.describe()


def test_the_choice_depends_on_the_seed_alone(folder: Path) -> None:
    choices = [read_samples(folder, 2, seed).photos for seed in range(8)]
    assert all(len(photos) == 2 for photos in choices)
    assert choices == [read_samples(folder, 2, seed).photos for seed in range(8)]
    assert len(set(choices)) > 1


def test_captions_beside_a_photo_belong_to_it(folder: Path) -> None:
    (folder / "b.txt").write_text("a beach\n\n  a sunset by the sea \n")
    (folder / "captions.txt").write_text("ein Hund\na beach\n", encoding="utf-8-sig")
    lines = [{"image": "sub/d.png", "caption": "noise"}, "plain words", {"caption": "lost", "image": "gone.png"}]
    rest = "\n".join([*map(json.dumps, lines), "{broken", '{"caption": 5}', "[1]"])
    (folder / "captions.jsonl").write_text(rest)
    found = read_samples(folder, 100)
    photos = [path.name for path in found.photos if isinstance(path, Path)]
    assert [(found.captions[caption], photos[photo]) for caption, photo in found.pairs] == [
        ("a beach", "b.jpg"),
        ("a sunset by the sea", "b.jpg"),
        ("noise", "d.png"),
    ]
    assert found.captions[3:] == ("ein Hund", "plain words", "lost")
    assert [reason for path, reason in found.skipped if path.name == "captions.jsonl"] == ["caption_invalid"] * 3


def test_there_are_no_more_captions_than_the_limit(folder: Path) -> None:
    (folder / "captions.txt").write_text("\n".join(f"caption {place}" for place in range(9)))
    assert read_samples(folder, 3).captions == ("caption 0", "caption 1", "caption 2")


def test_captions_that_are_no_utf8_are_skipped(folder: Path) -> None:
    (folder / "captions.txt").write_bytes(b"\xff\xfe\x00")
    assert (folder / "captions.txt", "not_utf8") in read_samples(folder, 9).skipped


def test_a_folder_without_photos_says_how_many_files_were_skipped_and_why(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.jpg").write_bytes(b"")
    (tmp_path / "c.doc").write_bytes(b"x")
    with pytest.raises(MagicError, match=r"3 files were skipped \(2 empty_file, 1 not_an_image\)") as caught:
        read_samples(tmp_path, 5)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


@pytest.mark.parametrize(("name", "said"), [("", "is empty"), ("missing", "no folder")])
def test_an_empty_or_missing_folder_is_unavailable(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(MagicError, match=said) as caught:
        read_samples(tmp_path / name, 5)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


def test_a_limit_of_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(MagicError, match="0 samples") as caught:
        read_samples(folder, 0)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_synthetic_samples_say_what_they_are_and_are_always_the_same() -> None:
    first, second = (synthetic_samples(7, side=56) for _ in range(2))
    assert first.synthetic
    assert "SYNTHETIC" in first.describe()
    assert len(first.photos) == len(first.captions) == 7
    pictures = [np.asarray(photo) for photo in first.photos]
    assert all(picture.shape == (56, 56, 3) and picture.dtype == np.uint8 for picture in pictures)
    assert [picture.tobytes() for picture in pictures] == [np.asarray(photo).tobytes() for photo in second.photos]
    assert len({picture.tobytes() for picture in pictures}) == 7
    # Grains: neighbours are equal more often in the coarser of two noises.
    coarse, fine = ((picture[:, 1:] == picture[:, :-1]).mean() for picture in (pictures[1], pictures[4]))
    assert coarse > fine


def test_prompts_are_those_of_the_roles_photo_and_query(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "b.txt").write_text("a beach")
    home = tmp_path_factory.mktemp("samples") / "tiny"
    write_checkpoint(home)
    tokenizer = PromptTokenizer(home / "tokenizer.json")
    config = Checkpoint.open(home).config.variant(image_size=112)
    inputs = prepare(read_samples(folder, 2, seed=3), config, tokenizer)
    assert [tuple(tiles.shape) for tiles in inputs.tiles] == [(1, 112, 112, 3)] * 2
    assert [ids.count(inputs.context) for ids in inputs.prompts[:2]] == [4, 4]
    for ids in inputs.prompts[2:]:
        assert "Query: a beach" in tokenizer.decode(ids)
