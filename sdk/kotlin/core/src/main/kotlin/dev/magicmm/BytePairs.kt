package dev.magicmm

import java.util.PriorityQueue

/**
 * Byte-level BPE: the bytes of a piece, joined pair by pair, the pair of the lowest rank first and of equal rank the
 * leftmost.
 *
 * @param ofByte The id of each byte, 256 of them.
 * @param merges Which pairs join, and into what.
 * @param whole Pieces that are tokens as they are, whatever the merges say; bytes spelled as in the vocabulary.
 */
internal class BytePairs(
    private val ofByte: IntArray,
    private val merges: MergeTable,
    private val whole: Map<String, Int>?,
) : TokenModel {
    override fun appendIds(piece: String, ids: MutableList<Int>) {
        val bytes = piece.toByteArray()
        whole?.get(ByteAlphabet.spell(bytes))?.let {
            ids.add(it)
            return
        }
        val tokens = IntArray(bytes.size) { ofByte[bytes[it].toInt() and 0xFF] }
        joinAll(tokens)
        tokens.filterTo(ids) { it >= 0 }
    }

    /** Join in place: a token that went into the one on its left becomes -1. */
    private fun joinAll(tokens: IntArray) {
        val next = IntArray(tokens.size) { it + 1 }
        val previous = IntArray(tokens.size) { it - 1 }
        val queue = PriorityQueue<Long>() // rank in the high half, place in the low one
        for (place in 0 until tokens.size - 1) offer(queue, tokens, place, place + 1)
        while (true) {
            val entry = queue.poll() ?: return
            val place = entry.toInt()
            val right = next[place]
            // Entries stay in the queue when a neighbour changed: the pair may be another one by now.
            if (tokens[place] < 0 || right >= tokens.size) continue
            val merge = merges.find(tokens[place], tokens[right])
            if (merge < 0 || MergeTable.rankOf(merge) != (entry ushr Int.SIZE_BITS).toInt()) continue
            tokens[place] = MergeTable.idOf(merge)
            tokens[right] = -1
            next[place] = next[right]
            if (next[place] < tokens.size) previous[next[place]] = place
            offer(queue, tokens, previous[place], place)
            offer(queue, tokens, place, next[place])
        }
    }

    private fun offer(queue: PriorityQueue<Long>, tokens: IntArray, left: Int, right: Int) {
        if (left < 0 || right >= tokens.size) return
        val merge = merges.find(tokens[left], tokens[right])
        if (merge >= 0) queue.add(MergeTable.rankOf(merge).toLong() shl Int.SIZE_BITS or left.toLong())
    }
}

/** Pairs of ids to rank and joined id, in two flat arrays: the boxes of a `HashMap` would take ten times the memory. */
internal class MergeTable(size: Int) {
    private val mask = Integer.highestOneBit(maxOf(size, 1)) * 4 - 1
    private val keys = LongArray(mask + 1) { -1 }
    private val values = LongArray(mask + 1)

    /** Add the pair that has the next [rank]; of a pair that comes twice the later rank holds. */
    fun add(left: Int, right: Int, rank: Int, joined: Int) {
        val place = placeOf(left, right)
        keys[place] = key(left, right)
        values[place] = rank.toLong() shl Int.SIZE_BITS or joined.toLong()
    }

    /** What [rankOf] and [idOf] read, or -1. */
    fun find(left: Int, right: Int): Long {
        val place = placeOf(left, right)
        return if (keys[place] < 0) -1 else values[place]
    }

    private fun placeOf(left: Int, right: Int): Int {
        val key = key(left, right)
        var place = (key * MIX ushr Int.SIZE_BITS).toInt() and mask
        while (keys[place] >= 0 && keys[place] != key) place = (place + 1) and mask
        return place
    }

    private fun key(left: Int, right: Int): Long = left.toLong() shl Int.SIZE_BITS or right.toLong()

    companion object {
        private const val MIX = -0x61c8864680b583ebL // an odd number whose bits look random

        fun rankOf(merge: Long): Int = (merge ushr Int.SIZE_BITS).toInt()

        fun idOf(merge: Long): Int = merge.toInt()
    }
}

/** How the vocabularies of byte-level BPE spell bytes: printable Latin-1 as itself, the others from U+0100 on. */
internal object ByteAlphabet {
    private val SPELLED: CharArray

    init {
        val printable = (0x21..0x7E) + (0xA1..0xAC) + (0xAE..0xFF)
        var next = 0x100
        SPELLED = CharArray(256) { byte -> if (byte in printable) byte.toChar() else (next++).toChar() }
    }

    fun spell(byte: Int): String = SPELLED[byte].toString()

    fun spell(bytes: ByteArray): String = String(CharArray(bytes.size) { SPELLED[bytes[it].toInt() and 0xFF] })
}
