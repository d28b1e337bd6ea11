package dev.magicmm

internal const val REINSTALL: String = "Install the bundle again, or export it anew."

internal fun bundleInvalid(message: String, remedy: String = REINSTALL, cause: Throwable? = null): MagicError =
    MagicError(ErrorCode.BUNDLE_INVALID, message, remedy, cause)

/** What another library said, in one line that fits a message. */
@MagicInternals
public fun saidBy(error: Throwable): String =
    (error.message ?: error.javaClass.simpleName).split(Regex("\\s+")).joinToString(" ").trim().take(300)
