"""Shares of the embedding: together they are all of it, side by side as well as one after the other."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from magicmm import ErrorCode, MagicError
from magicmm_training.entries import Entry, Pair
from magicmm_training.mining.mine import mine
from magicmm_training.mining.negatives import FILE_NAME
from magicmm_training.mining.share import embed_share
from magicmm_training.recipe import Mining
from one_thread import one_thread as one_thread
from training_pairs import HashEmbedder, MemoryPairs, candidate, numbered_pairs, query

STAGE = Mining(name="mine", init="x", data=(), ranks=(3, 8), each=2)


def data() -> list[MemoryPairs]:
    with_negatives = [
        Pair(str(n), "more", query(f"ask {n}"), candidate(f"say {n}"), (candidate(f"lie {n}"),)) for n in range(9)
    ]
    return [numbered_pairs(20), MemoryPairs(with_negatives, "more")]


@pytest.mark.parametrize("side_by_side", [False, True])
def test_after_all_shares_nothing_is_left_to_embed(tmp_path: Path, side_by_side: bool) -> None:
    embedders = [HashEmbedder() for _ in range(3)]
    work = [
        threading.Thread(target=embed_share, args=(data(), embedder, tmp_path / "vectors", share, 3, 4))
        for share, embedder in enumerate(embedders)
    ]
    for one in work:
        one.start()
        if not side_by_side:
            one.join()
    for one in work:
        one.join()
    assert [sum(embedder.batches) for embedder in embedders] == [14 + 9, 14 + 9, 12 + 9]
    last = HashEmbedder()
    mine(STAGE, data(), last, tmp_path / "shared", vectors=tmp_path / "vectors")
    assert last.batches == []
    mine(STAGE, data(), HashEmbedder(), tmp_path / "alone")
    assert (tmp_path / "shared" / FILE_NAME).read_bytes() == (tmp_path / "alone" / FILE_NAME).read_bytes()


def test_a_share_goes_on_where_it_was(tmp_path: Path) -> None:
    assert embed_share(data(), HashEmbedder(), tmp_path, 1, 3) == 14 + 9
    again = HashEmbedder()
    assert embed_share(data(), again, tmp_path, 1, 3) == 14 + 9
    assert again.batches == []


def test_broken_rows_are_left_to_the_stage(tmp_path: Path) -> None:
    def refuse(entry: Entry) -> None:
        if entry.text == "answer 4":
            raise MagicError(ErrorCode.IMAGE_INVALID, "cut off", "")

    pairs = numbered_pairs(6)
    broken = replace(pairs, pairs=[MagicError(ErrorCode.TEXT_INVALID, "no text", ""), *pairs.pairs[1:]])
    assert embed_share([broken], HashEmbedder(refuse=refuse), tmp_path, 0, 1) == 5 + 4


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    embed_share([numbered_pairs(6)], HashEmbedder(), tmp_path, 0, 2, 4, lambda *what: told.append(what))
    assert told == [("toys: share 1 of 2", 4, 6), ("toys: share 1 of 2", 6, 6)]


@pytest.mark.parametrize(("share", "shares"), [(3, 3), (-1, 3), (0, 0)])
def test_shares_that_there_are_not_are_refused(tmp_path: Path, share: int, shares: int) -> None:
    with pytest.raises(MagicError, match=f"no share {share} of {shares}") as caught:
        embed_share(data(), HashEmbedder(), tmp_path, share, shares)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
