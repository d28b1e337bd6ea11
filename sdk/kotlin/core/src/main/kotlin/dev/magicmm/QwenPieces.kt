package dev.magicmm

/**
 * The regular expression of Qwen's tokenizers, read by hand: the platforms' engines differ in what they call a letter and
 * in how much stack they take. Each step below is one alternative of [PATTERN]; the first that matches wins.
 */
internal object QwenPieces : PreTokenizer {
    const val PATTERN: String =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" +
            "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

    private val LETTERS = CodePointSet(UnicodeTables.LETTERS)
    private val NUMBERS = CodePointSet(UnicodeTables.NUMBERS)

    override fun pieces(text: String): List<String> {
        val pieces = ArrayList<String>()
        var at = 0
        while (at < text.length) {
            val end = endOfPiece(text, at)
            pieces.add(text.substring(at, end))
            at = end
        }
        return pieces
    }

    private fun endOfPiece(text: String, at: Int): Int {
        val contraction = endOfContraction(text, at)
        if (contraction > at) return contraction
        val code = text.codePoint(at)
        val second = at + Character.charCount(code)
        val startsWord =
            code !in NUMBERS && !isLineEnd(code) && second < text.length && text.codePoint(second) in LETTERS
        return when {
            code in LETTERS -> endOfRun(text, at) { it in LETTERS }
            startsWord -> endOfRun(text, second) { it in LETTERS }
            code in NUMBERS -> second
            isOther(code) -> endOfOthers(text, at)
            code == ' '.code && second < text.length && isOther(text.codePoint(second)) -> endOfOthers(text, second)
            else -> endOfSpace(text, at)
        }
    }

    /** The end of 's, 't, 're, 've, 'm, 'll or 'd at [at], or [at] where none is. */
    private fun endOfContraction(text: String, at: Int): Int {
        if (text[at] != '\'' || at + 1 == text.length) return at
        val first = folded(text[at + 1])
        val second = if (at + 2 < text.length) folded(text[at + 2]) else ' '
        return when {
            first in "stmd" -> at + 2
            (first == 'r' || first == 'v') && second == 'e' -> at + 3
            first == 'l' && second == 'l' -> at + 3
            else -> at
        }
    }

    private fun folded(char: Char): Char = when (char) {
        in 'A'..'Z' -> char + ('a' - 'A')

        '\u017F' -> 's'

        // the long s is an s when case is ignored
        else -> char
    }

    private fun endOfOthers(text: String, at: Int): Int = endOfRun(text, endOfRun(text, at, ::isOther), ::isLineEnd)

    /** White space up to its last line end; else all of it at the end of the text; else all but its last character. */
    private fun endOfSpace(text: String, at: Int): Int {
        val end = endOfRun(text, at, ::isWhiteSpace)
        for (place in end - 1 downTo at) if (isLineEnd(text[place].code)) return place + 1
        return if (end == text.length || end == at + 1) end else end - 1 // white space is never a pair of surrogates
    }

    private inline fun endOfRun(text: String, at: Int, belongs: (Int) -> Boolean): Int {
        var end = at
        while (end < text.length) {
            val code = text.codePoint(end)
            if (!belongs(code)) break
            end += Character.charCount(code)
        }
        return end
    }

    private fun isOther(code: Int): Boolean = !isWhiteSpace(code) && code !in LETTERS && code !in NUMBERS

    private fun isLineEnd(code: Int): Boolean = code == '\r'.code || code == '\n'.code
}
