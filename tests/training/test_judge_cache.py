"""The file of verdicts."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from magicmm import ErrorCode, MagicError
from magicmm_training.judge import cache as module
from magicmm_training.judge.cache import VerdictCache, verdict_key
from magicmm_training.judge.verdict import Verdict
from training_pairs import candidate, query

VERDICTS = [Verdict(True, 0.30000001192092896), Verdict(False, -7.5), Verdict(None, None), Verdict(True, None)]


def test_verdicts_come_back_bit_for_bit(tmp_path: Path) -> None:
    given = {bytes([n]) * 16: verdict for n, verdict in enumerate(VERDICTS)}
    first = VerdictCache(tmp_path / "deep" / "v.sqlite")
    first.keep(given.items())
    first.close()
    second = VerdictCache(tmp_path / "deep" / "v.sqlite")
    assert second.known([*given, b"unknown"]) == given
    assert len(second) == 4


def test_more_keys_than_a_statement_takes(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "v.sqlite")
    keys = [n.to_bytes(16, "big") for n in range(1300)]
    cache.keep((key, Verdict(True, float(n))) for n, key in enumerate(keys))
    assert cache.known(keys) == {key: Verdict(True, float(n)) for n, key in enumerate(keys)}


def test_all_of_a_batch_is_kept_or_none(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "v.sqlite")
    with pytest.raises(MagicError) as caught:
        cache.keep([(b"1" * 16, VERDICTS[0]), (b"2" * 16, Verdict(True, object()))])  # type: ignore[arg-type]
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    assert len(cache) == 0


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be one" * 50)
    with pytest.raises(MagicError, match="not a database"):
        VerdictCache(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    with pytest.raises(MagicError, match="another program") as caught:
        VerdictCache(tmp_path / "other")
    assert caught.value.code is ErrorCode.STORAGE_FAILED


def test_the_key_names_all_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, target = query("q"), candidate("c")
    keys = [
        verdict_key("judge", asked, "1", target, "2"),
        verdict_key("other", asked, "1", target, "2"),
        verdict_key("judge", query("q", None, "Else."), "1", target, "2"),
        verdict_key("judge", asked, "3", target, "2"),
        verdict_key("judge", asked, "1", target, "3"),
        verdict_key("judge", asked, "1", replace(target, max_tiles=4), "2"),
        verdict_key("judge", replace(asked, max_tiles=4), "1", target, "2"),
    ]
    monkeypatch.setattr(module, "PROMPT_VERSION", 2)
    keys.append(verdict_key("judge", asked, "1", target, "2"))
    assert len(set(keys)) == len(keys)
