package dev.magicmm

/**
 * Keeps the [k] best of many rows: higher scores, and among equal ones lower ids. The worst that is kept lies on top.
 *
 * @param expected How many rows to make room for at first.
 * @param least Scores below it are left out.
 */
internal class BestHeap(private val k: Int, expected: Int, private val least: Float) {
    private var scores = FloatArray(minOf(expected, FIRST_ROOM))
    private var ids = LongArray(scores.size)
    private var size = 0

    /** Takes a row if it is good enough. */
    fun offer(score: Float, id: Long) {
        if (!(score >= least)) return
        if (size < k) {
            grow()
            rise(score, id)
        } else if (isWorse(scores[0], ids[0], score, id)) {
            sink(score, id)
        }
    }

    /** Returns what was kept, in no order. */
    fun best(): Best = Best(scores.copyOf(size), ids.copyOf(size))

    private fun grow() {
        if (size < scores.size) return
        val room = minOf(k.toLong(), maxOf(FIRST_ROOM.toLong(), 2L * size)).toInt()
        scores = scores.copyOf(room)
        ids = ids.copyOf(room)
    }

    private fun rise(score: Float, id: Long) {
        var place = size++
        while (place > 0) {
            val parent = (place - 1) / 2
            if (!isWorse(score, id, scores[parent], ids[parent])) break
            put(place, scores[parent], ids[parent])
            place = parent
        }
        put(place, score, id)
    }

    private fun sink(score: Float, id: Long) {
        var place = 0
        while (true) {
            var child = 2 * place + 1
            if (child >= size) break
            if (child + 1 < size && isWorse(scores[child + 1], ids[child + 1], scores[child], ids[child])) child++
            if (!isWorse(scores[child], ids[child], score, id)) break
            put(place, scores[child], ids[child])
            place = child
        }
        put(place, score, id)
    }

    private fun put(place: Int, score: Float, id: Long) {
        scores[place] = score
        ids[place] = id
    }

    private fun isWorse(score: Float, id: Long, otherScore: Float, otherId: Long): Boolean =
        score < otherScore || (score == otherScore && id > otherId)

    private companion object {
        const val FIRST_ROOM = 1024
    }
}
