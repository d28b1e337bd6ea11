package dev.magicmm

import java.io.IOException
import java.nio.file.Files
import java.nio.file.Path

private const val MOST_CHARACTERS = 200_000
private const val SAY = "Say in a few words what the photo shows."

/**
 * Return [text] when it can be embedded.
 *
 * @throws MagicError `text_invalid` for nothing but white space, lone surrogates, or a whole book.
 */
@MagicInternals
public fun checkText(text: String): String {
    if (text.all { isWhiteSpace(it.code) || it in SEPARATORS }) throw textInvalid("The text is empty.", SAY)
    val count = text.codePointCount(0, text.length)
    if (count > MOST_CHARACTERS) {
        throw textInvalid("The text has $count characters; at most $MOST_CHARACTERS.", "Shorten it.")
    }
    if (text.indices.any { text[it].isSurrogate() && isAlone(text, it) }) {
        throw textInvalid("The text holds half a character.", "Check the encoding of your input.")
    }
    return text
}

/** Whether a surrogate has no other half beside it. */
private fun isAlone(text: String, at: Int): Boolean = if (text[at].isHighSurrogate()) {
    at + 1 == text.length || !text[at + 1].isLowSurrogate()
} else {
    at == 0 || !text[at - 1].isHighSurrogate()
}

/** Which are white space to Python's `str.strip`, and so to every language. */
private val SEPARATORS = '\u001c'..'\u001f'

/**
 * Text to token ids by a bundle's `tokenizer.json`: WordPiece as BERT has it, and byte-level BPE as Qwen has it. Immutable.
 *
 * Special tokens written in a user's text are treated as plain text: a query cannot close its own prompt.
 */
@MagicInternals
public class Tokenizer internal constructor(
    private val normalizer: TextNormalizer,
    private val preTokenizer: PreTokenizer,
    private val model: TokenModel,
    private val added: AddedTokens,
    private val addedNormalized: AddedTokens,
) {
    /** The token ids of a checked [text], without the special tokens around it. */
    public fun encode(text: String): List<Int> {
        val ids = ArrayList<Int>()
        added.split(text, { encodePlain(it, ids) }, { ids.add(it) })
        return ids
    }

    private fun encodePlain(text: String, ids: MutableList<Int>) {
        addedNormalized.split(
            normalizer.normalize(text),
            { part -> preTokenizer.pieces(part).forEach { model.appendIds(it, ids) } },
            { ids.add(it) },
        )
    }

    public companion object {
        /**
         * Load a `tokenizer.json`.
         *
         * @throws MagicError `bundle_invalid` when the file is no tokenizer, or one of a kind that this SDK does not read.
         */
        public fun load(path: Path): Tokenizer {
            try {
                return parseTokenizer(Files.readAllBytes(path).toText())
            } catch (error: IOException) {
                throw bundleInvalid("$path cannot be read (${saidBy(error)}).", cause = error)
            } catch (error: TokenizerError) {
                throw bundleInvalid("$path: ${error.message}.", cause = error)
            }
        }
    }
}

/**
 * Return [ids], cut from the right when [truncate] allows it.
 *
 * @throws MagicError `text_invalid` when there is none, or more than [most] and [truncate] is off; `bundle_invalid` when
 *   the role leaves no room at all.
 */
@MagicInternals
public fun fitTokens(ids: List<Int>, most: Int, truncate: Boolean): List<Int> {
    if (most < 1) throw bundleInvalid("The role's own tokens leave no room for a text.", "Export the bundle anew.")
    // Characters that the tokenizer drops, such as zero-width spaces, leave none.
    if (ids.isEmpty()) throw textInvalid("The text holds nothing that the model reads.", SAY)
    if (ids.size <= most || truncate) return ids.take(most)
    throw textInvalid(
        "The text has ${ids.size} tokens; the model reads $most.",
        "Shorten it (a sentence works best), or pass truncate = true to use its beginning.",
    )
}

private fun textInvalid(message: String, remedy: String): MagicError =
    MagicError(ErrorCode.TEXT_INVALID, message, remedy)
