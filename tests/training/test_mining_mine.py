"""Mining: negatives come from the window, never from what is true, and the same seed gives the same ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magicmm import ErrorCode, MagicError
from magicmm_training.entries import Entry, Pair
from magicmm_training.mining.mine import mine
from magicmm_training.mining.negatives import FILE_NAME, Negatives
from magicmm_training.recipe import Mining
from one_thread import one_thread as one_thread
from training_pairs import HashEmbedder, MemoryPairs, candidate, numbered_pairs, picture, query


def stage(**changes: Any) -> Mining:
    return Mining(name="mining", init="warm-up", data=(), **{"ranks": (3, 8), "each": 2, **changes})


def ranks_by_numpy(pairs: MemoryPairs, place: int, truths: set[str]) -> list[str]:
    """Return the texts of all candidates that are not true, best first."""
    texts = sorted({entry.text or "" for pair in pairs for entry in (pair.positive, *pair.negatives)} - truths)
    vectors = HashEmbedder().embed([pairs[place].query, *map(candidate, texts)])
    return [texts[at] for at in np.argsort(-(vectors[1:] @ vectors[0]))]


def mined(pairs: MemoryPairs, out: Path, chosen: Mining, **options: Any) -> list[list[str]]:
    mine(chosen, [pairs], HashEmbedder(), out, **options)
    negatives = Negatives.load(out, [pairs])
    return [[entry.text or "" for entry in negatives.for_query(pair.dataset, pair.id)] for pair in pairs]


def test_negatives_are_of_the_window_by_rising_rank(tmp_path: Path) -> None:
    pairs = numbered_pairs(30)
    found = mined(pairs, tmp_path, stage())
    taken = set()
    for place, texts in enumerate(found):
        ranked = ranks_by_numpy(pairs, place, {f"answer {place}"})
        ranks = [ranked.index(text) + 1 for text in texts]
        assert len(ranks) == 2
        assert 3 <= ranks[0] < ranks[1] <= 8
        taken |= set(ranks)
    assert taken == {3, 4, 5, 6, 7, 8}


def test_the_whole_window_is_taken_when_all_of_it_is_wanted(tmp_path: Path) -> None:
    pairs = numbered_pairs(12)
    for place, texts in enumerate(mined(pairs, tmp_path, stage(ranks=(2, 5), each=4))):
        assert texts == ranks_by_numpy(pairs, place, {f"answer {place}"})[1:5]


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    pairs = numbered_pairs(20)
    one = mined(pairs, tmp_path / "1", stage(batch=1), seed=3)
    assert mined(pairs, tmp_path / "2", stage(batch=7), seed=3) == one
    assert mined(pairs, tmp_path / "3", stage(backend="faiss"), seed=3) == one
    assert (tmp_path / "1" / FILE_NAME).read_bytes() == (tmp_path / "3" / FILE_NAME).read_bytes()
    assert mined(pairs, tmp_path / "4", stage(), seed=4) != one


def test_the_order_of_rows_does_not_decide(tmp_path: Path) -> None:
    pairs = numbered_pairs(20)
    backwards = replace(pairs, pairs=pairs.pairs[::-1])
    assert mined(backwards, tmp_path / "2", stage())[::-1] == mined(pairs, tmp_path / "1", stage())


def test_each_data_set_is_a_pool_of_its_own(tmp_path: Path) -> None:
    one, other = numbered_pairs(12, "one"), numbered_pairs(12, "other")
    other.pairs = [replace(pair, positive=candidate(f"else {pair.id}")) for pair in other]
    report = mine(stage(), [one, other], HashEmbedder(), tmp_path)
    negatives = Negatives.load(tmp_path, [one, other])
    for pairs, word in ((one, "answer"), (other, "else")):
        for pair in pairs:
            texts = [entry.text or "" for entry in negatives.for_query(pairs.name, pair.id)]
            assert len(texts) == 2
            assert all(text.startswith(word) for text in texts)
    assert [counts.dataset for counts in report.sets] == ["one", "other"]


def test_a_pool_that_ends_within_the_window_narrows_it(tmp_path: Path) -> None:
    pairs = numbered_pairs(6)
    report = mine(stage(ranks=(3, 100)), [pairs], HashEmbedder(), tmp_path)
    negatives = Negatives.load(tmp_path, [pairs])
    for place, pair in enumerate(pairs):
        ranked = ranks_by_numpy(pairs, place, {f"answer {place}"})
        assert {entry.text for entry in negatives.for_query("toys", pair.id)} <= set(ranked[2:])
    assert (report.sets[0].small_pool, report.sets[0].fewer) == (0, 0)


def test_a_pool_that_ends_before_the_window_is_taken_whole(tmp_path: Path) -> None:
    pairs = numbered_pairs(4)
    report = mine(stage(ranks=(50, 100), each=5), [pairs], HashEmbedder(), tmp_path)
    negatives = Negatives.load(tmp_path, [pairs])
    for place, pair in enumerate(pairs):
        texts = [entry.text for entry in negatives.for_query("toys", pair.id)]
        assert texts == ranks_by_numpy(pairs, place, {f"answer {place}"})
    counts = report.sets[0]
    assert (counts.small_pool, counts.fewer, counts.none, counts.negatives) == (4, 4, 0, 12)


def test_margin_leaves_out_what_is_too_close(tmp_path: Path) -> None:
    pairs = numbered_pairs(30)
    report = mine(stage(ranks=(1, 29), each=29, margin=-0.1), [pairs], HashEmbedder(), tmp_path)
    negatives = Negatives.load(tmp_path, [pairs])
    above = 0
    for place, pair in enumerate(pairs):
        ranked = ranks_by_numpy(pairs, place, {f"answer {place}"})
        vectors = HashEmbedder().embed([pair.query, pair.positive, *map(candidate, ranked)])
        scores = vectors[2:] @ vectors[0]
        allowed = [text for text, score in zip(ranked, scores, strict=True) if score <= vectors[1] @ vectors[0] - 0.1]
        assert [entry.text for entry in negatives.for_query("toys", pair.id)] == allowed
        above += len(ranked) - len(allowed)
    assert report.sets[0].above_margin == above
    assert 0 < above < 30 * 29


def test_the_report_counts_and_is_written(tmp_path: Path) -> None:
    pairs = numbered_pairs(12)
    pairs.pairs = [*pairs.pairs[:11], replace(pairs[11], positive=pairs[0].positive)]
    report = mine(stage(), [pairs], HashEmbedder(), tmp_path)
    counts = report.sets[0]
    own = {n: f"answer {n % 11}" for n in range(12)}
    first = 0
    for place, text in own.items():
        best = ranks_by_numpy(pairs, place, {text})[0]
        vectors = HashEmbedder().embed([pairs[place].query, candidate(text), candidate(best)])
        first += bool(vectors[1] @ vectors[0] > vectors[2] @ vectors[0])
    assert (counts.pairs, counts.candidates, counts.negatives, counts.broken, counts.first) == (12, 11, 24, 0, first)
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_json()
    assert report.table().splitlines()[2].startswith("| toys | 12 | 0 | 11 | 24 |")


def with_broken(count: int, error: MagicError) -> MemoryPairs:
    pairs = numbered_pairs(200)
    pairs.pairs = [error] * count + list(pairs.pairs[count:])
    return pairs


def test_broken_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    pairs = with_broken(2, MagicError(ErrorCode.TEXT_INVALID, "train.jsonl, row 1: no text", "Mend it."))
    assert mine(stage(), [pairs], HashEmbedder(), tmp_path).sets[0].broken == 2
    assert len(Negatives.load(tmp_path, [pairs])) == 198


def test_many_broken_rows_stop_the_stage(tmp_path: Path) -> None:
    pairs = with_broken(3, MagicError(ErrorCode.TEXT_INVALID, "train.jsonl, row 1: no text.", "Mend it."))
    with pytest.raises(MagicError, match=r"3 of 200 pairs are broken; the first: train.jsonl, row 1: no text. Mend"):
        mine(stage(), [pairs], HashEmbedder(), tmp_path)
    assert not (tmp_path / FILE_NAME).exists()


def test_pictures_that_cannot_be_embedded_are_left_out(tmp_path: Path) -> None:
    spoilt = picture((1, 2, 3))

    def refuse(entry: Entry) -> None:
        if entry.image == spoilt:
            raise MagicError(ErrorCode.IMAGE_INVALID, "cut off", "Restore it.")

    pairs = numbered_pairs(200)
    pairs.pairs = [
        replace(pairs[0], positive=candidate(None, spoilt)),
        replace(pairs[1], query=query("what", spoilt)),
        *pairs.pairs[2:],
    ]
    report = mine(stage(ranks=(1, 199), each=199), [pairs], HashEmbedder(refuse=refuse), tmp_path)
    negatives = Negatives.load(tmp_path, [pairs])
    assert report.sets[0].broken == 2
    assert negatives.row("toys", "0") is negatives.row("toys", "1") is None
    everything = [entry for pair in pairs for entry in negatives.for_query("toys", pair.id)]
    assert candidate(None, spoilt) not in everything
    assert pairs[1].positive in everything


def test_missing_pictures_are_said(tmp_path: Path) -> None:
    pairs = MemoryPairs([Pair("1", "toys", query("q"), Entry(None, tmp_path / "no.jpg", "I", candidate("c").side))])
    with pytest.raises(MagicError, match="1 of 1 pairs are broken") as caught:
        mine(stage(), [pairs], HashEmbedder(), tmp_path)
    assert caught.value.code is ErrorCode.IMAGE_INVALID


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], "There are no data sets"),
        ([MemoryPairs([])], "toys has no pairs"),
        ([numbered_pairs(3), numbered_pairs(4)], "Two data sets are named 'toys'"),
        ([numbered_pairs(1)], "No query has a hard negative"),
    ],
)
def test_data_that_cannot_be_mined_is_refused(tmp_path: Path, sets: list[MemoryPairs], message: str) -> None:
    with pytest.raises(MagicError, match=message) as caught:
        mine(stage(), sets, HashEmbedder(), tmp_path)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert not (tmp_path / FILE_NAME).exists()


def test_a_killed_run_ends_like_any_other(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from test_mining_mine import stage
        from magicmm_training.mining.mine import mine
        from training_pairs import HashEmbedder, numbered_pairs

        def refuse(entry):
            if entry.text == "answer 9":
                os.kill(os.getpid(), signal.SIGKILL)

        mine(stage(batch=4), [numbered_pairs(20)], HashEmbedder(refuse=refuse), Path(sys.argv[1]))
        """
    )
    paths = [*sys.path, str(Path(__file__).parent)]
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "killed")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / FILE_NAME).exists()
    again = HashEmbedder()
    mine(stage(), [numbered_pairs(20)], again, tmp_path / "killed")
    mine(stage(), [numbered_pairs(20)], HashEmbedder(), tmp_path / "whole")
    assert sum(again.batches) == 20  # queries were committed, candidates were not
    assert (tmp_path / "killed" / FILE_NAME).read_bytes() == (tmp_path / "whole" / FILE_NAME).read_bytes()


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    mine(stage(batch=8), [numbered_pairs(12)], HashEmbedder(), tmp_path, progress=lambda *what: told.append(what))
    assert [what for what in told if what[1] == what[2]] == [
        ("toys: queries", 12, 12),
        ("toys: candidates", 12, 12),
        ("toys: negatives", 12, 12),
    ]


texts = st.sampled_from("abcdefgh")
rows = st.lists(st.tuples(texts, texts, st.lists(texts, max_size=3)), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, ranks=st.tuples(st.integers(1, 4), st.integers(4, 9)), each=st.integers(1, 9), seed=st.integers(0, 9))
def test_what_is_true_is_never_a_negative(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, list[str]]],
    ranks: tuple[int, int],
    each: int,
    seed: int,
) -> None:
    """Whatever repeats: queries, positives, explicit negatives that are true elsewhere, queries among candidates."""
    pairs = MemoryPairs(
        [
            Pair(str(n), "toys", query(asked), candidate(true), tuple(map(candidate, negatives)))
            for n, (asked, true, negatives) in enumerate(rows)
        ]
    )
    out = tmp_path_factory.mktemp("mined")
    try:
        found = mined(pairs, out, stage(ranks=ranks, each=each), seed=seed)
    except MagicError as error:
        assert "No query has a hard negative" in error.message
        return
    everything = {text for _, true, negatives in rows for text in (true, *negatives)}
    for (asked, _, _), chosen in zip(rows, found, strict=True):
        truths = {true for other, true, _ in rows if other == asked} | {asked}
        assert not truths & set(chosen)
        assert len(set(chosen)) == len(chosen) <= each
        assert set(chosen) <= everything
        if each <= ranks[1] - ranks[0] + 1:
            assert len(chosen) == min(each, len(everything - truths))
