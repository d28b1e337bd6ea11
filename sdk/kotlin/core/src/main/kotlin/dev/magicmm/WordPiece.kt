package dev.magicmm

/** What turns one piece of text into token ids. */
internal fun interface TokenModel {
    fun appendIds(piece: String, ids: MutableList<Int>)
}

/** Greedy longest pieces of a vocabulary; a word that does not come out whole is one unknown token. */
internal class WordPiece(
    private val vocab: Map<String, Int>,
    private val unknown: Int,
    private val continuation: String,
    private val mostCharacters: Int,
) : TokenModel {
    private val longest = vocab.keys.maxOf { it.length }

    override fun appendIds(piece: String, ids: MutableList<Int>) {
        if (piece.codePointCount(0, piece.length) > mostCharacters) {
            ids.add(unknown)
            return
        }
        val found = ArrayList<Int>()
        var start = 0
        while (start < piece.length) {
            val end = endOfLongest(piece, start, found)
            if (end == start) {
                ids.add(unknown)
                return
            }
            start = end
        }
        ids.addAll(found)
    }

    /** Add the id of the longest piece that begins at [start] and return its end; [start] where none does. */
    private fun endOfLongest(piece: String, start: Int, found: MutableList<Int>): Int {
        val before = if (start > 0) continuation else ""
        for (end in minOf(piece.length, start + longest) downTo start + 1) {
            if (end < piece.length && piece[end].isLowSurrogate() && piece[end - 1].isHighSurrogate()) continue
            val id = vocab[before + piece.substring(start, end)] ?: continue
            found.add(id)
            return end
        }
        return start
    }
}
