package dev.magicmm

/**
 * What went wrong, in a word that programs may compare. Codes are never renamed and are the same in every language
 * (`tests/vectors/errors.json`).
 *
 * @property value The word as it stands in vectors, logs and other languages.
 */
public enum class ErrorCode(public val value: String) {
    /** The bundle is missing, incomplete, altered, or breaks the format. */
    BUNDLE_INVALID("bundle_invalid"),

    /** The bundle is of a later format than this SDK reads. */
    BUNDLE_TOO_NEW("bundle_too_new"),

    /** A checkpoint for making bundles is broken (desktop tools only). */
    CHECKPOINT_INVALID("checkpoint_invalid"),

    /** The index holds vectors of another model. */
    MODEL_MISMATCH("model_mismatch"),

    /** A photo cannot be used; as [PhotoSkipped] it says why. */
    IMAGE_INVALID("image_invalid"),

    /** A text is empty, too long, or no text. */
    TEXT_INVALID("text_invalid"),

    /** The caller asked for something that cannot be. */
    ARGUMENT_INVALID("argument_invalid"),

    /** The index file is damaged or belongs to another program. */
    INDEX_CORRUPT("index_corrupt"),

    /** The index is of a later version than this SDK reads. */
    INDEX_TOO_NEW("index_too_new"),

    /** Somebody else is writing to the index. */
    INDEX_LOCKED("index_locked"),

    /** The disk is full, read-only or failing. */
    STORAGE_FAILED("storage_failed"),

    /** The inference runtime refused a graph or gave no usable vector. */
    RUNTIME_FAILED("runtime_failed"),

    /** An index, a folder or a drive is not there. */
    SOURCE_UNAVAILABLE("source_unavailable"),

    /** The caller stopped the work. */
    CANCELLED("cancelled"),
}

/**
 * Why a photo is not in the index. Kept with the photo, so that nothing vanishes silently.
 *
 * @property value The word as it stands in the index file.
 * @property isTransient Whether the next sync tries again although the file did not change.
 */
public enum class SkipReason(public val value: String, public val isTransient: Boolean = false) {
    /** The file has no bytes. */
    EMPTY_FILE("empty_file"),

    /** The file ends before its picture does. */
    TRUNCATED("truncated"),

    /** The content is no format that the SDK reads, whatever the name says. */
    NOT_AN_IMAGE("not_an_image"),

    /** The samples have no known range. */
    UNSUPPORTED_PIXELS("unsupported_pixels"),

    /** The platform has no decoder for HEIC. */
    HEIC_SUPPORT_MISSING("heic_support_missing", isTransient = true),

    /** The picture has more pixels than any camera makes, or than fit in memory. */
    TOO_MANY_PIXELS("too_many_pixels"),

    /** The file is larger than any photo. */
    FILE_TOO_LARGE("file_too_large"),

    /** The decoder stopped on broken content. */
    DECODE_FAILED("decode_failed"),

    /** The file may not be read. */
    PERMISSION_DENIED("permission_denied", isTransient = true),

    /** Reading the file failed. */
    READ_FAILED("read_failed", isTransient = true),

    /** A link whose target does not exist. */
    BROKEN_LINK("broken_link", isTransient = true),

    /** The file disappeared between listing and reading. */
    VANISHED("vanished", isTransient = true),

    /** The model failed on this photo. */
    EMBEDDING_FAILED("embedding_failed", isTransient = true),
}

/**
 * An error that a user can act on: the only exception that leaves the SDK on purpose.
 *
 * @property code One of [ErrorCode]; the same words in every language.
 * @property remedy What to do about it, as an instruction; may be empty.
 * @param message What happened, with the offending value.
 * @param cause What another library threw, if it did.
 */
public open class MagicError(
    public val code: ErrorCode,
    message: String,
    public val remedy: String,
    cause: Throwable? = null,
) : Exception(message, cause) {
    override val message: String = message

    /** Returns the message followed by the remedy. */
    override fun toString(): String = if (remedy.isEmpty()) message else "$message $remedy"
}

/**
 * One photo that cannot be indexed: an `image_invalid` error that also holds the [SkipReason].
 *
 * @property reason Why, in a word.
 */
public class PhotoSkipped(
    public val reason: SkipReason,
    message: String,
    remedy: String = "",
    cause: Throwable? = null,
) : MagicError(ErrorCode.IMAGE_INVALID, message, remedy, cause)
