"""The one exception of the SDK, and the fixed codes it carries in every language (DESIGN section 8).

`tests/vectors/errors.json` lists the same codes for Kotlin and Swift.
"""

from __future__ import annotations

from enum import Enum


class ErrorCode(str, Enum):
    """What went wrong, in a word that programs may compare. Codes are never renamed."""

    BUNDLE_INVALID = "bundle_invalid"
    BUNDLE_TOO_NEW = "bundle_too_new"
    CHECKPOINT_INVALID = "checkpoint_invalid"
    MODEL_MISMATCH = "model_mismatch"
    IMAGE_INVALID = "image_invalid"
    TEXT_INVALID = "text_invalid"
    ARGUMENT_INVALID = "argument_invalid"
    INDEX_CORRUPT = "index_corrupt"
    INDEX_TOO_NEW = "index_too_new"
    INDEX_LOCKED = "index_locked"
    STORAGE_FAILED = "storage_failed"
    RUNTIME_FAILED = "runtime_failed"
    SOURCE_UNAVAILABLE = "source_unavailable"
    CANCELLED = "cancelled"


class SkipReason(str, Enum):
    """Why a photo is not in the index. Kept with the photo, so that nothing vanishes silently."""

    EMPTY_FILE = "empty_file"
    TRUNCATED = "truncated"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    HEIC_SUPPORT_MISSING = "heic_support_missing"
    TOO_MANY_PIXELS = "too_many_pixels"
    FILE_TOO_LARGE = "file_too_large"
    DECODE_FAILED = "decode_failed"
    PERMISSION_DENIED = "permission_denied"
    READ_FAILED = "read_failed"
    BROKEN_LINK = "broken_link"
    VANISHED = "vanished"
    EMBEDDING_FAILED = "embedding_failed"

    @property
    def is_transient(self) -> bool:
        """Whether the next sync tries again although the file did not change."""
        return self in _TRANSIENT


_TRANSIENT = frozenset(
    {
        SkipReason.HEIC_SUPPORT_MISSING,
        SkipReason.PERMISSION_DENIED,
        SkipReason.READ_FAILED,
        SkipReason.BROKEN_LINK,
        SkipReason.VANISHED,
        SkipReason.EMBEDDING_FAILED,
    }
)


class MagicError(Exception):
    """An error that a user can act on.

    Attributes:
        code: One of `ErrorCode`; the same words in every language.
        message: What happened, with the offending value.
        remedy: What to do about it, as an instruction.
    """

    def __init__(self, code: ErrorCode, message: str, remedy: str) -> None:
        """Keep the three parts; `str(error)` joins message and remedy."""
        super().__init__(code, message, remedy)  # `args` rebuild the error in another process
        self.code = code
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """Return the message followed by the remedy."""
        return f"{self.message} {self.remedy}" if self.remedy else self.message


class PhotoSkipped(MagicError):
    """One photo that cannot be indexed: an `image_invalid` error that also holds the `SkipReason`."""

    def __init__(self, reason: SkipReason, message: str, remedy: str = "") -> None:
        """Keep the reason beside the parts of a `MagicError`."""
        super().__init__(ErrorCode.IMAGE_INVALID, message, remedy)
        self.args = (reason, message, remedy)
        self.reason = reason
