"""The cache of parts: what was put comes back, and whatever cannot be read counts as absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from magicmm import ErrorCode, MagicError
from magicmm_export.part_cache import PartCache

ARRAYS: dict[str, NDArray[Any]] = {
    "codes": np.arange(-3, 3, dtype=np.int8).reshape(2, 3),
    "scales": np.array([0.5, 2], np.float32),
}


def test_a_part_comes_back_as_it_was(tmp_path: Path) -> None:
    cache = PartCache(tmp_path / "new" / "parts")
    assert cache.get("a") is None and not cache.has("a")
    cache.put("a", ARRAYS)
    found = PartCache(cache.folder).get("a")
    assert found is not None and found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
    assert cache.has("a") and not cache.has("b")
    assert [path.name for path in cache.folder.iterdir()] == ["a.safetensors"]


def test_counters_tell_what_was_found_and_made(tmp_path: Path) -> None:
    cache = PartCache(tmp_path)
    cache.get("a")
    cache.put("a", ARRAYS)
    cache.put("b", ARRAYS)
    cache.get("a")
    assert (cache.found, cache.made) == (1, 2)


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "folder"])
def test_a_broken_part_counts_as_absent_and_is_replaced(tmp_path: Path, damage: str) -> None:
    cache = PartCache(tmp_path)
    cache.put("a", ARRAYS)
    path = tmp_path / "a.safetensors"
    whole = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-3], "noise": bytes(range(200))}[damage])
    assert cache.get("a") is None
    assert not cache.has("a")
    assert cache.found == 0
    if damage != "folder":
        cache.put("a", ARRAYS)
        assert cache.get("a") is not None and cache.has("a")


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MagicError) as caught:
        PartCache(tmp_path / "file" / "parts").put("a", ARRAYS)
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    assert "parts" in caught.value.message and "--cache" in caught.value.remedy


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path, __: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache = PartCache(tmp_path)
    with pytest.raises(MagicError, match="No space left"):
        cache.put("a", ARRAYS)
    assert list(tmp_path.iterdir()) == [] and cache.made == 0


def test_removing_takes_the_folder_away(tmp_path: Path) -> None:
    cache = PartCache(tmp_path / "parts")
    cache.put("a", ARRAYS)
    cache.remove()
    cache.remove()
    assert list(tmp_path.iterdir()) == []
