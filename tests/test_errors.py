"""Error codes: fixed words, with a message and a remedy."""

from __future__ import annotations

import pickle

import pytest

from magicmm import ErrorCode, MagicError, PhotoSkipped, SkipReason
from tools.generate_vectors import ERRORS, SKIPS


def test_every_code_and_reason_has_a_meaning_in_the_contract() -> None:
    assert set(ERRORS) == {code.value for code in ErrorCode}
    assert set(SKIPS) == {reason.value for reason in SkipReason}


@pytest.mark.parametrize("member", [*ErrorCode, *SkipReason], ids=lambda member: member.value)
def test_words_are_the_names_in_small_letters(member: ErrorCode | SkipReason) -> None:
    assert member.value == member.name.lower()
    assert member == member.value  # programs may compare with the plain word


def test_an_error_says_what_and_what_to_do() -> None:
    error = MagicError(ErrorCode.INDEX_LOCKED, "It is locked.", "Wait.")
    assert (error.code, error.message, error.remedy) == (ErrorCode.INDEX_LOCKED, "It is locked.", "Wait.")
    assert str(error) == "It is locked. Wait."
    assert str(MagicError(ErrorCode.CANCELLED, "Stopped.", "")) == "Stopped."


def test_a_skipped_photo_is_an_image_error_with_a_reason() -> None:
    skip = PhotoSkipped(SkipReason.TRUNCATED, "Too short.")
    assert isinstance(skip, MagicError)
    assert skip.code is ErrorCode.IMAGE_INVALID
    assert skip.reason is SkipReason.TRUNCATED
    assert str(skip) == "Too short."


def test_transient_reasons_are_those_that_pass_without_a_change_of_the_file() -> None:
    assert {reason.value for reason in SkipReason if reason.is_transient} == {
        "heic_support_missing",
        "permission_denied",
        "read_failed",
        "broken_link",
        "vanished",
        "embedding_failed",
    }


@pytest.mark.parametrize(
    "error",
    [MagicError(ErrorCode.CANCELLED, "a", "b"), PhotoSkipped(SkipReason.VANISHED, "a", "b")],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error: MagicError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
