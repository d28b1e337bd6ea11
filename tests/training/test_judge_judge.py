"""The judge stage: what is rejected becomes a negative, what is approved never does, and nothing is asked twice."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magicmm import ErrorCode, MagicError
from magicmm_training.entries import Pair
from magicmm_training.judge.cache import VerdictCache
from magicmm_training.judge.judge import VERDICTS, judge
from magicmm_training.judge.message import Message
from magicmm_training.judge.verdict import Verdict
from magicmm_training.mining.negatives import FILE_NAME, Negatives
from magicmm_training.recipe import Judge, JudgeModel, Source
from one_thread import one_thread as one_thread
from training_pairs import HashEmbedder, MemoryPairs, candidate, numbered_pairs, query

EACH, TOP = 4, 9


def stage(*unjudged: str, **changes: Any) -> Judge:
    sources = tuple(Source(name=name, format="pairs", path="x", judged=False) for name in unjudged)
    values = {"top": TOP, "each": EACH, "batch": 8, "judge": JudgeModel(kind="own", path="restoration"), **changes}
    return Judge(name="judge", init="second", data=sources, **values)


def by_remainder(asked: int, answered: int) -> Verdict:
    """Approve answers that leave the query's remainder when divided by 3; margins are exact in float32."""
    fits = asked % 3 == answered % 3
    return Verdict(fits, (1 if fits else -1) * (1 + answered / 64))


@dataclass
class RuleJudge:
    """Answers by a rule on the numbers in query and target."""

    rule: Callable[[int, int], Verdict] = by_remainder
    name: str = "rule"
    fingerprint: str = "rule-1"
    batches: list[int] = field(default_factory=list)

    def answer(self, messages: Sequence[Message]) -> list[Verdict]:
        self.batches.append(len(messages))
        return [self.rule(*map(int, re.findall(r"\d+", message.text))) for message in messages]


def top_by_numpy(pairs: MemoryPairs, place: int) -> list[int]:
    """Return the numbers of the best answers, the true one left out."""
    vectors = HashEmbedder().embed([pairs[place].query, *(pair.positive for pair in pairs)])
    order = np.argsort(-(vectors[1:] @ vectors[0])).tolist()
    return [int((pairs[n].positive.text or "").split()[1]) for n in order if n != place][:TOP]


def numbers(entries: Sequence[Any]) -> list[int]:
    return [int(entry.text.split()[1]) for entry in entries]


PAIRS = numbered_pairs(30)


def test_rejected_become_negatives_and_approved_do_not(tmp_path: Path) -> None:
    report = judge(stage(), [PAIRS], HashEmbedder(), RuleJudge(), tmp_path)
    negatives = Negatives.load(tmp_path, [PAIRS])
    counts = report.sets[0]
    approved = rejected = 0
    for place, pair in enumerate(PAIRS):
        top = top_by_numpy(PAIRS, place)
        wrong, right = [n for n in top if n % 3 != place % 3], [n for n in top if n % 3 == place % 3]
        assert numbers(negatives.for_query("toys", pair.id)) == wrong[:EACH]
        assert numbers(negatives.approved("toys", pair.id)) == right
        margins = negatives.margins("toys", pair.id)
        assert margins is not None
        assert margins.positive == 1 + place / 64
        assert margins.negatives == tuple(-(1 + n / 64) for n in wrong[:EACH])
        assert margins.approved == tuple(1 + n / 64 for n in right)
        approved, rejected = approved + len(right), rejected + len(wrong)
    assert (counts.approved, counts.rejected, counts.asked) == (approved, rejected, 30 * (1 + TOP))
    assert (counts.positives, counts.positives_approved, counts.agreement) == (30, 30, 1.0)
    assert counts.approved_share == approved / (approved + rejected)
    assert (counts.unclear, counts.failed, counts.cached, negatives.kind) == (0, 0, 0, "judge")


def test_a_judge_that_says_yes_too_easily_is_held_to_the_target(tmp_path: Path) -> None:
    judge(stage(approves="above_target"), [PAIRS], HashEmbedder(), RuleJudge(), tmp_path)
    negatives = Negatives.load(tmp_path, [PAIRS])
    for place, pair in enumerate(PAIRS):
        top = top_by_numpy(PAIRS, place)
        sure = [n for n in top if n % 3 == place % 3 and n >= place]
        assert numbers(negatives.approved("toys", pair.id)) == sure
        assert numbers(negatives.for_query("toys", pair.id)) == [n for n in top if n not in sure][:EACH]


def test_answers_in_words_alone_cannot_be_held_to_the_target(tmp_path: Path) -> None:
    backend = RuleJudge(lambda asked, answered: Verdict(asked % 3 == answered % 3, None))
    judge(stage(approves="above_target"), [PAIRS], HashEmbedder(), backend, tmp_path)
    negatives = Negatives.load(tmp_path, [PAIRS])
    right = [n for n in top_by_numpy(PAIRS, 4) if n % 3 == 1]
    assert numbers(negatives.approved("toys", PAIRS[4].id)) == right


def test_the_report_is_written(tmp_path: Path) -> None:
    report = judge(stage(), [PAIRS], HashEmbedder(), RuleJudge(), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_json()
    assert report.to_json()["sets"][0]["agreement"] == 1.0
    assert report.table().splitlines()[2].startswith("| toys | 30 | 0 | 300 |")


def test_calibration_counts_true_targets_that_are_missed(tmp_path: Path) -> None:
    def strict(asked: int, answered: int) -> Verdict:
        return Verdict(asked == answered and asked < 12, 0.5)

    report = judge(stage(), [PAIRS], HashEmbedder(), RuleJudge(strict), tmp_path)
    assert (report.sets[0].positives_approved, report.sets[0].agreement) == (12, 0.4)


def test_fewer_rejected_than_wanted_are_counted(tmp_path: Path) -> None:
    def lenient(asked: int, answered: int) -> Verdict:
        return Verdict(answered != (asked + 1) % 5, 1.0)

    pairs = numbered_pairs(5)
    report = judge(stage(), [pairs], HashEmbedder(), RuleJudge(lenient), tmp_path)
    negatives = Negatives.load(tmp_path, [pairs])
    assert [numbers(negatives.for_query("toys", str(n))) for n in range(5)] == [[1], [2], [3], [4], [0]]
    assert (report.sets[0].fewer, report.sets[0].none, report.sets[0].negatives) == (5, 0, 5)


def test_a_set_that_is_not_judged_gives_its_top_candidates(tmp_path: Path) -> None:
    memes = MemoryPairs([replace(pair, dataset="memes") for pair in PAIRS], "memes")
    backend = RuleJudge()
    report = judge(stage("memes"), [memes, PAIRS], HashEmbedder(), backend, tmp_path)
    negatives = Negatives.load(tmp_path, [memes, PAIRS])
    for place, pair in enumerate(memes):
        assert numbers(negatives.for_query("memes", pair.id)) == top_by_numpy(PAIRS, place)[:EACH]
        assert negatives.approved("memes", pair.id) == ()
        assert negatives.margins("memes", pair.id) is None
    assert sum(backend.batches) == 300
    assert [counts.asked for counts in report.sets] == [0, 300]
    assert "not judged" in report.table().splitlines()[2]


def test_unclear_answers_are_neither(tmp_path: Path) -> None:
    def unsure(asked: int, answered: int) -> Verdict:
        return Verdict(None, 0.25) if answered % 7 == 0 else by_remainder(asked, answered)

    report = judge(stage(unclear_share=0.5), [PAIRS], HashEmbedder(), RuleJudge(unsure), tmp_path)
    negatives = Negatives.load(tmp_path, [PAIRS])
    for pair in PAIRS:
        entries = negatives.for_query("toys", pair.id) + negatives.approved("toys", pair.id)
        assert all(n % 7 for n in numbers(entries))
    counts = report.sets[0]
    answered = [(place, n) for place in range(30) for n in (place, *top_by_numpy(PAIRS, place))]
    assert counts.unclear == sum(n % 7 == 0 for _, n in answered)
    assert counts.approved + counts.rejected + counts.unclear == 300 - sum(place % 7 != 0 for place in range(30))


def test_too_many_unclear_answers_stop_the_stage_and_are_kept(tmp_path: Path) -> None:
    def unsure(asked: int, answered: int) -> Verdict:
        return Verdict(None, None) if answered % 7 == 0 else by_remainder(asked, answered)

    with pytest.raises(MagicError, match=r"neither yes nor no to \d+ of 300 questions") as caught:
        judge(stage(), [PAIRS], HashEmbedder(), RuleJudge(unsure), tmp_path)
    assert caught.value.code is ErrorCode.MODEL_MISMATCH
    assert not (tmp_path / FILE_NAME).exists()
    again = RuleJudge(unsure)
    judge(stage(unclear_share=0.5), [PAIRS], HashEmbedder(), again, tmp_path)
    assert again.batches == []


def test_a_judge_that_never_answers_is_stopped_early(tmp_path: Path) -> None:
    backend = RuleJudge(lambda *_: Verdict(None, None))
    many = numbered_pairs(200)
    with pytest.raises(MagicError, match=r"\(100\.0%; allowed are 5\.0%\)"):
        judge(stage(), [many], HashEmbedder(), backend, tmp_path)
    assert sum(backend.batches) == 320


def test_answers_without_margins_leave_them_open(tmp_path: Path) -> None:
    backend = RuleJudge(lambda asked, answered: Verdict(by_remainder(asked, answered).approved, None))
    judge(stage(), [PAIRS], HashEmbedder(), backend, tmp_path)
    margins = Negatives.load(tmp_path, [PAIRS]).margins("toys", "3")
    assert margins is not None
    assert all(map(math.isnan, (margins.positive, *margins.negatives, *margins.approved)))


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    first, second = RuleJudge(), RuleJudge()
    judge(stage(), [PAIRS], HashEmbedder(), first, tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    report = judge(stage(batch=3), [PAIRS], HashEmbedder(), second, tmp_path)
    assert (sum(first.batches), max(first.batches), second.batches) == (300, 8, [])
    assert report.sets[0].cached == report.sets[0].asked == 300
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    doubled = MemoryPairs([*PAIRS.pairs, *(replace(pair, id=f"again {pair.id}") for pair in PAIRS)])
    backend = RuleJudge()
    judge(stage(), [doubled], HashEmbedder(), backend, tmp_path)
    assert sum(backend.batches) == 300
    negatives = Negatives.load(tmp_path, [doubled])
    assert negatives.for_query("toys", "again 4") == negatives.for_query("toys", "4")


def test_other_judges_and_other_questions_are_asked_anew(tmp_path: Path) -> None:
    judge(stage(), [PAIRS], HashEmbedder(), RuleJudge(), tmp_path)
    other = RuleJudge(fingerprint="rule-2")
    judge(stage(), [PAIRS], HashEmbedder(), other, tmp_path)
    words = MemoryPairs([replace(pair, query=query(pair.query.text, None, "Else.")) for pair in PAIRS])
    reworded = RuleJudge()
    judge(stage(), [words], HashEmbedder(), reworded, tmp_path)
    assert sum(other.batches) == sum(reworded.batches) == 300


def test_a_question_that_cannot_be_asked_is_counted(tmp_path: Path) -> None:
    def spoilt(asked: int, answered: int) -> Verdict:
        if answered == 7:
            raise MagicError(ErrorCode.IMAGE_INVALID, "cut off", "")
        return by_remainder(asked, answered)

    report = judge(stage(), [PAIRS], HashEmbedder(), RuleJudge(spoilt), tmp_path)
    negatives = Negatives.load(tmp_path, [PAIRS])
    named = [n for pair in PAIRS for n in numbers(negatives.for_query("toys", pair.id))]
    expected = sum(7 in (place, *top_by_numpy(PAIRS, place)) for place in range(30))
    assert 7 not in named
    assert (report.sets[0].failed, report.sets[0].asked, report.sets[0].positives) == (expected, 300 - expected, 29)


def test_a_judge_that_fails_loses_nothing(tmp_path: Path) -> None:
    def fails(asked: int, answered: int) -> Verdict:
        if asked == 20:
            raise MagicError(ErrorCode.SOURCE_UNAVAILABLE, "gone", "")
        return by_remainder(asked, answered)

    with pytest.raises(MagicError, match="gone"):
        judge(stage(), [PAIRS], HashEmbedder(), RuleJudge(fails), tmp_path)
    assert not (tmp_path / FILE_NAME).exists()
    again = RuleJudge()
    judge(stage(), [PAIRS], HashEmbedder(), again, tmp_path)
    assert sum(again.batches) == 300 - 200


def test_the_truth_is_never_a_candidate(tmp_path: Path) -> None:
    """Positives of equal queries, and the query itself among the candidates."""
    pairs = MemoryPairs(
        [Pair(str(n), "toys", query(f"query {n % 3}"), candidate(f"query {n}")) for n in range(12)],
    )
    judge(stage(top=30, each=30), [pairs], HashEmbedder(), RuleJudge(lambda *_: Verdict(False, -1.0)), tmp_path)
    negatives = Negatives.load(tmp_path, [pairs])
    for n in range(12):
        assert sorted(numbers(negatives.for_query("toys", str(n)))) == [m for m in range(12) if m % 3 != n % 3]


def test_a_judge_that_rejects_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="No query has a negative"):
        judge(stage(), [PAIRS], HashEmbedder(), RuleJudge(lambda *_: Verdict(True, 1.0)), tmp_path)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    judge(stage(), [PAIRS], HashEmbedder(), RuleJudge(), tmp_path, lambda *what: told.append(what))
    assert [what for what in told if what[1] == what[2]] == [
        ("toys: queries", 30, 30),
        ("toys: candidates", 30, 30),
        ("toys: judged", 30, 30),
    ]


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from test_judge_judge import PAIRS, RuleJudge, by_remainder, stage
        from magicmm_training.judge.judge import judge
        from training_pairs import HashEmbedder

        def rule(asked, answered):
            if asked == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return by_remainder(asked, answered)

        judge(stage(), [PAIRS], HashEmbedder(), RuleJudge(rule), Path(sys.argv[1]))
        """
    )
    paths = [*sys.path, str(Path(__file__).parent)]
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / FILE_NAME).exists()
    memory = VerdictCache(tmp_path / VERDICTS)
    assert len(memory) == 200
    memory.close()
    again, whole = RuleJudge(), RuleJudge()
    judge(stage(), [PAIRS], HashEmbedder(), again, tmp_path)
    judge(stage(), [PAIRS], HashEmbedder(), whole, tmp_path / "uninterrupted")
    assert sum(again.batches) == 100
    assert (tmp_path / FILE_NAME).read_bytes() == (tmp_path / "uninterrupted" / FILE_NAME).read_bytes()
