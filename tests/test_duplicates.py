"""Groups of equal bytes and of look-alikes, compared with all pairs in numpy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from gallery_fixtures import counting, make_photo, make_photos, photo_bytes, synced
from magicmm.duplicates import look_alikes
from magicmm.gallery import Gallery
from magicmm.quantise import quantise
from magicmm.sources import path_uri
from magicmm.topk import Segment


def segment(vectors: np.ndarray, ids: np.ndarray) -> Segment:
    codes, scales = quantise(vectors.astype(np.float32))
    return Segment(codes, scales, ids.astype(np.int64))


def all_pairs(rows: Segment, least: float) -> list[list[int]]:
    """Join by a plain search through the whole table of cosines."""
    dots = (rows.codes.astype(np.int64) @ rows.codes.astype(np.int64).T).astype(np.float32)
    near = dots * (rows.scales[:, None] * rows.scales[None]) >= np.float32(least)
    groups, left = [], set(range(len(rows)))
    while left:
        found, edge = set(), {left.pop()}
        while edge:
            found |= edge
            edge = {int(other) for row in edge for other in np.flatnonzero(near[row])} - found
        left -= found
        if len(found) > 1:
            groups.append(sorted(int(rows.ids[row]) for row in found))
    return sorted(groups, key=lambda group: (-len(group), group[0]))


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 700])
@pytest.mark.parametrize("least", [0.8, 0.95, 1.1])
def test_look_alikes_are_the_connected_groups_of_all_pairs(count: int, least: float) -> None:
    rng = np.random.default_rng(count)
    centres = rng.normal(size=(40, 12))
    vectors = centres[rng.integers(0, 40, count)] + rng.normal(0, 0.15, (count, 12))
    rows = segment(vectors, rng.permutation(10 * count + 1)[:count]) if count else segment(np.ones((1, 12)), np.ones(1))
    found = look_alikes(rows, least)
    assert [[photo_id for photo_id, _ in group] for group in found] == all_pairs(rows, least)


def test_a_chain_of_neighbours_is_one_group_with_cosines_to_its_first() -> None:
    angles = np.radians([0, 20, 40, 60, 150])
    rows = segment(np.stack([np.cos(angles), np.sin(angles)], axis=1), np.array([5, 4, 3, 2, 1]))
    (group,) = look_alikes(rows, 0.9)
    assert [photo_id for photo_id, _ in group] == [2, 3, 4, 5]
    assert [score for _, score in group] == pytest.approx(
        [1, np.cos(np.radians(20)), np.cos(np.radians(40)), 0.5], abs=0.02
    )


def test_many_photos_of_the_same_are_grouped_in_reasonable_time() -> None:
    rows = segment(np.ones((4000, 16)), np.arange(1, 4001))
    (group,) = look_alikes(rows, 0.99)
    assert len(group) == 4000


def test_copies_and_look_alikes_are_told_apart(tmp_path: Path) -> None:
    photos = tmp_path / "p"
    red, darker = make_photo(photos / "red.png", 1, "red"), make_photo(photos / "red-2.png", 2, "red")
    blue = make_photo(photos / "blue.png", 3, "blue")
    copies = [Path(shutil.copy(red, photos / f"copy-{number}.png")) for number in range(2)]
    with Gallery.open(tmp_path / "i.db", counting(), [photos]) as gallery:
        synced(gallery)
        (same,) = gallery.duplicates()
        assert same.kind == "same_bytes"
        assert {match.uri for match in same.photos} == {path_uri(path) for path in [red, *copies]}
        assert [match.score for match in same.photos] == [1.0] * 3
        assert [match.id for match in same.photos] == sorted(match.id for match in same.photos)
        (alike,) = gallery.duplicates(0.98)
        assert alike.kind == "look_alike"
        assert {match.uri for match in alike.photos} == {path_uri(path) for path in [red, darker, *copies]}
        assert path_uri(blue) not in {match.uri for match in alike.photos}
        for path in [*copies, darker]:
            path.unlink()
        synced(gallery)
        assert gallery.duplicates() == gallery.duplicates(0.98) == []


def test_skipped_photos_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 1)
    for number in range(3):
        (tmp_path / "p" / f"{number}.jpg").write_bytes(photo_bytes(1)[:50])
    with Gallery.open(tmp_path / "i.db", counting(), [tmp_path / "p"]) as gallery:
        assert synced(gallery).skipped == 3
        assert gallery.duplicates() == []
