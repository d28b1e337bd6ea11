package dev.magicmm

/** The file is written anew when more rows than this came or went; less costs a search next to nothing. */
private const val REWRITE_ROWS = 1000
private const val REWRITE_SHARE = 0.02

/** Enough to know a quantile of the scores to a twentieth of their deviation; little beside a scan of 100,000. */
private const val BACKGROUND_ROWS = 2048

/**
 * All vectors of one model at one generation of the index, ready to be searched: a mapped scan file and the rows
 * written since.
 *
 * @property generation The index's generation when it was loaded.
 * @property modelId Whose vectors they are.
 */
@MagicInternals
public class ScanMatrix private constructor(
    public val generation: Long,
    public val modelId: Long,
    base: Segment?,
    delta: Segment,
    dead: Int,
) {
    /** How many rows the scan file gave; 0 without one. */
    public val baseRows: Int = base?.size ?: 0

    /** How many rows came after the file, or are dead in it. */
    public val staleRows: Int = delta.size + dead

    private val segments = listOfNotNull(base, delta)

    /** Whether enough has changed since the file was written. */
    public val isWorthRewriting: Boolean
        get() = staleRows > maxOf(REWRITE_ROWS.toDouble(), REWRITE_SHARE * baseRows) || (baseRows == 0 && staleRows > 0)

    /**
     * Returns the k best among [selected] photo ids (null = all), and how many rows took part.
     *
     * @param threads 0 = all cores.
     */
    public fun search(query: Query, selected: LongArray? = null, threads: Int = 0): Pair<Best, Int> {
        var searched = 0
        val parts = segments.map { segment ->
            val mask = selectionOf(segment, selected)
            searched += mask?.count { it } ?: segment.size
            topK(segment, query, mask, threads)
        }
        return merge(parts, query.k) to searched
    }

    /** Living rows. */
    internal val size: Int get() = segments.sumOf { segment -> segment.alive?.count { it } ?: segment.size }

    /** Returns what the query scores here as a rule: scores of up to 2,048 living rows, evenly over all of them. */
    internal fun background(query: Query): FloatArray = backgroundOf(segments, query)

    /** Returns all living rows as one segment (a copy when there is more than the file). */
    internal fun rows(): Segment {
        val living = segments.map { if (it.alive == null) it else take(it, it.alive) }.filter { it.size > 0 }
        return when (living.size) {
            0 -> segments.last()
            1 -> living[0]
            else -> join(living[0], living[1])
        }
    }

    public companion object {
        /** Maps the scan file if it belongs to this index and model, and reads the rest from SQLite. */
        public fun load(index: Index, model: Model): ScanMatrix = index.snapshot {
            val generation = index.metaNumber("generation")
            val file = openScanFile(scanPath(index.path), index, model)
            val delta = readSegment(index, model, file?.header?.lastSeq ?: 0)
            var base = file?.rows
            var dead = 0
            val gone = index.removedSeqs().sortedArray()
            if (file != null && gone.isNotEmpty()) {
                val alive = BooleanArray(file.seqs.size) { gone.binarySearch(file.seqs[it]) < 0 }
                dead = alive.count { !it }
                if (dead > 0) base = file.rows.run { Segment(codes, scales, ids, alive) }
            }
            ScanMatrix(generation, model.id, base, delta, dead)
        }
    }
}

/** See [ScanMatrix.background]. */
internal fun backgroundOf(segments: List<Segment>, query: Query): FloatArray {
    val living = segments.map { segment ->
        (0 until segment.size).filter { segment.alive == null || segment.alive[it] }.toIntArray()
    }
    val step = maxOf(1, (living.sumOf { it.size } + BACKGROUND_ROWS - 1) / BACKGROUND_ROWS)
    val parts = segments.zip(living) { segment, rows ->
        scoresOf(segment, IntArray((rows.size + step - 1) / step) { rows[it * step] }, query)
    }
    return parts.fold(FloatArray(0)) { all, part -> all + part }
}

private fun readSegment(index: Index, model: Model, afterSeq: Long): Segment {
    val found = ArrayList<VectorRow>()
    index.vectorsAfter(afterSeq, model) { found += it }
    return Segment.of(model.dim, found.map { it.vector }, LongArray(found.size) { found[it].photoId })
}

/** Returns which rows take part, [n]; null for all. */
private fun selectionOf(segment: Segment, selected: LongArray?): BooleanArray? {
    if (selected == null) return segment.alive
    val alive = segment.alive
    val wanted = IdSet(selected)
    return BooleanArray(segment.size) { (alive == null || alive[it]) && segment.ids[it] in wanted }
}

/** A set of ids: a table of flags beats sorting, as ids are small numbers given out in order. */
internal class IdSet(ids: LongArray) {
    private val sorted: LongArray?
    private val flags: BooleanArray

    init {
        val most = ids.maxOrNull() ?: -1
        val isSmall = most < MOST_FLAGS && ids.all { it >= 0 }
        flags = BooleanArray(if (isSmall) most.toInt() + 1 else 0)
        sorted = if (isSmall) null else ids.sortedArray()
        if (isSmall) for (id in ids) flags[id.toInt()] = true
    }

    operator fun contains(id: Long): Boolean =
        if (sorted == null) id >= 0 && id < flags.size && flags[id.toInt()] else sorted.binarySearch(id) >= 0

    private companion object {
        const val MOST_FLAGS = 1L shl 26
    }
}

private fun take(segment: Segment, rows: BooleanArray): Segment =
    rowsOf(segment, rows.indices.filter { rows[it] }.toIntArray())

/** Returns a copy of some rows, in the given order. */
internal fun rowsOf(segment: Segment, rows: IntArray): Segment = Segment(
    segment.codes.take(rows),
    FloatArray(rows.size) { segment.scales[rows[it]] },
    LongArray(rows.size) { segment.ids[rows[it]] },
)

private fun join(one: Segment, other: Segment): Segment {
    val first = one.codes.reader()
    val second = other.codes.reader()
    val codes = CodeRows.build(one.size + other.size, one.codes.dim) { place, row ->
        if (place < one.size) first.readBytes(place, row) else second.readBytes(place - one.size, row)
    }
    return Segment(codes, one.scales + other.scales, one.ids + other.ids)
}
