package dev.magicmm

import java.text.Normalizer

/** What stands before a tokenizer's model: text to another text, and to the pieces that the model reads one by one. */
internal fun interface TextNormalizer {
    fun normalize(text: String): String
}

/** See [TextNormalizer]. */
internal fun interface PreTokenizer {
    fun pieces(text: String): List<String>
}

/** The normaliser of BERT: no controls, spaces around ideographs, no accents, small letters. */
internal class BertNormalizer(
    private val cleanText: Boolean,
    private val handleChineseChars: Boolean,
    private val stripAccents: Boolean,
    private val lowercase: Boolean,
) : TextNormalizer {
    override fun normalize(text: String): String {
        var result = text
        if (cleanText) result = mapped(result) { code, out -> if (code !in DROPPED) out.appendCodePoint(cleaned(code)) }
        if (handleChineseChars) result = mapped(result, ::spaced)
        if (stripAccents) result = mapped(Normalizer.normalize(result, Normalizer.Form.NFD), ::withoutMarks)
        if (lowercase) result = mapped(result, ::small)
        return result
    }

    private fun cleaned(code: Int): Int =
        // The line ends and the tab are no controls here; other controls were dropped.
        if (isWhiteSpace(code)) ' '.code else code

    private fun spaced(code: Int, out: StringBuilder) {
        if (code in IDEOGRAPHS) out.append(' ').appendCodePoint(code).append(' ') else out.appendCodePoint(code)
    }

    private fun withoutMarks(code: Int, out: StringBuilder) {
        if (code !in MARKS) out.appendCodePoint(code)
    }

    private fun small(code: Int, out: StringBuilder) {
        // The one capital whose small letter takes two characters.
        if (code == CAPITAL_I_WITH_DOT) out.append("i\u0307") else out.appendCodePoint(SMALL.of(code))
    }

    private companion object {
        const val CAPITAL_I_WITH_DOT = 0x130
        val DROPPED = CodePointSet(UnicodeTables.DROPPED)
        val IDEOGRAPHS = CodePointSet(UnicodeTables.IDEOGRAPHS)
        val MARKS = CodePointSet(UnicodeTables.MARKS)
        val SMALL = SmallLetters(UnicodeTables.SMALL)
    }
}

private inline fun mapped(text: String, write: (Int, StringBuilder) -> Unit): String {
    val out = StringBuilder(text.length + 16)
    var at = 0
    while (at < text.length) {
        val code = text.codePoint(at)
        write(code, out)
        at += Character.charCount(code)
    }
    return out.toString()
}

/** The pre-tokenizer of BERT: words between white space, each punctuation mark a word of its own. */
internal object BertPreTokenizer : PreTokenizer {
    private val PUNCTUATION = CodePointSet(UnicodeTables.PUNCTUATION)

    override fun pieces(text: String): List<String> {
        val pieces = ArrayList<String>()
        var start = 0
        var at = 0
        while (at < text.length) {
            val code = text.codePoint(at)
            val next = at + Character.charCount(code)
            val isMark = code in PUNCTUATION
            if (isMark || isWhiteSpace(code)) {
                if (at > start) pieces.add(text.substring(start, at))
                if (isMark) pieces.add(text.substring(at, next))
                start = next
            }
            at = next
        }
        if (at > start) pieces.add(text.substring(start))
        return pieces
    }
}
