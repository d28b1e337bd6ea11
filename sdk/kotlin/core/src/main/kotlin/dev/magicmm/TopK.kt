package dev.magicmm

import java.util.concurrent.Callable
import java.util.concurrent.ExecutionException
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.ThreadPoolExecutor
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger

// Exact top-k over int8 rows. Higher scores first, equal scores by id ascending; scores as `quantise` describes them.

/** Rows a thread takes at a time. */
private const val BLOCK_ROWS = 4096

/** A thread more for each this many rows: starting one costs more than scanning fewer. */
private const val THREAD_ROWS = 16384

/** Below this share of selected rows, copying them one by one beats scanning everything. */
private const val GATHER_SHARE = 0.25

/** Rows to search: codes int8 [n, dim], scales float32 [n], photo ids [n]; [alive] null = all of them. */
@MagicInternals
public class Segment internal constructor(
    internal val codes: CodeRows,
    internal val scales: FloatArray,
    internal val ids: LongArray,
    internal val alive: BooleanArray? = null,
) {
    /** How many rows it has, dead ones included. */
    public val size: Int get() = ids.size

    public companion object {
        /** Makes a segment of rows in memory; [alive] says which of them a search may find, null = all. */
        public fun of(dim: Int, vectors: List<Quantised>, ids: LongArray, alive: BooleanArray? = null): Segment {
            val codes = CodeRows.build(vectors.size, dim) { place, row -> vectors[place].codes.copyInto(row) }
            return Segment(codes, FloatArray(vectors.size) { vectors[it].scale }, ids, alive)
        }
    }
}

/** A quantised query and how much to find; [minScore] null = any. */
@MagicInternals
public class Query(public val vector: Quantised, public val k: Int, public val minScore: Double? = null)

/** The best rows, best first. */
@MagicInternals
public class Best(public val scores: FloatArray, public val ids: LongArray)

/**
 * Returns the scores and ids of the k best rows.
 *
 * @param selected Which rows pass a filter, [n]; null = all.
 * @param threads 0 = all cores; small matrices use one.
 */
@MagicInternals
public fun topK(segment: Segment, query: Query, selected: BooleanArray? = null, threads: Int = 0): Best {
    var mask = both(selected, segment.alive)
    var chosen: IntArray? = null
    if (mask != null) {
        val count = mask.count { it }
        if (count <= GATHER_SHARE * segment.size) {
            chosen = placesOf(mask, count)
            mask = null
        }
    }
    val total = chosen?.size ?: segment.size
    val next = AtomicInteger()
    val work = Callable { scan(segment, query, chosen, mask, total, next) }
    val cores = if (threads > 0) threads else Runtime.getRuntime().availableProcessors()
    val helpers = minOf(cores, maxOf(1, total / THREAD_ROWS)) - 1
    val others = List(helpers) { ScanThreads.pool.submit(work) }
    val parts = arrayListOf(work.call())
    try {
        others.mapTo(parts) { it.get() }
    } catch (error: InterruptedException) {
        throw interrupted(error)
    } catch (error: ExecutionException) {
        throw error.cause ?: error
    }
    return merge(parts, query.k)
}

/** Joins the best of several parts into one ranking of [k]. */
internal fun merge(parts: List<Best>, k: Int): Best {
    val scores = FloatArray(parts.sumOf { it.scores.size })
    val ids = LongArray(scores.size)
    var at = 0
    for (part in parts) {
        part.scores.copyInto(scores, at)
        part.ids.copyInto(ids, at)
        at += part.ids.size
    }
    val order = scores.indices.sortedWith { one, other ->
        when { // not compareTo, for which -0 is less than 0
            scores[one] > scores[other] -> -1

            scores[one] < scores[other] -> 1

            else -> ids[one].compareTo(ids[other])
        }
    }.take(k)
    return Best(FloatArray(order.size) { scores[order[it]] }, LongArray(order.size) { ids[order[it]] })
}

/** Takes blocks until none is left: threads share [next] and so balance themselves. */
private fun scan(
    segment: Segment,
    query: Query,
    chosen: IntArray?,
    mask: BooleanArray?,
    total: Int,
    next: AtomicInteger,
): Best {
    val kernel = DotKernel.of(query.vector.codes)
    val reader = segment.codes.reader()
    val dots = IntArray(kernel.tile)
    val heap = BestHeap(query.k, minOf(total, query.k), query.minScore?.toFloat() ?: Float.NEGATIVE_INFINITY)
    while (true) {
        val from = next.getAndAdd(BLOCK_ROWS)
        if (from >= total || from < 0) break
        val to = minOf(total, from + BLOCK_ROWS)
        for (start in from until to step kernel.tile) {
            val count = minOf(kernel.tile, to - start)
            kernel.dots(reader, chosen, start, count, dots)
            for (place in 0 until count) {
                val row = if (chosen == null) start + place else chosen[start + place]
                if (mask != null && !mask[row]) continue
                heap.offer(score(dots[place], query.vector.scale, segment.scales[row]), segment.ids[row])
            }
        }
    }
    return heap.best()
}

/** Returns the scores of some rows, in their order. */
internal fun scoresOf(segment: Segment, rows: IntArray, query: Query): FloatArray {
    val kernel = DotKernel.of(query.vector.codes)
    val reader = segment.codes.reader()
    val dots = IntArray(kernel.tile)
    val scores = FloatArray(rows.size)
    for (start in rows.indices step kernel.tile) {
        val count = minOf(kernel.tile, rows.size - start)
        kernel.dots(reader, rows, start, count, dots)
        for (place in 0 until count) {
            scores[start + place] = score(dots[place], query.vector.scale, segment.scales[rows[start + place]])
        }
    }
    return scores
}

private fun both(first: BooleanArray?, second: BooleanArray?): BooleanArray? = when {
    first == null -> second
    second == null -> first
    else -> BooleanArray(first.size) { first[it] && second[it] }
}

private fun placesOf(mask: BooleanArray, count: Int): IntArray {
    val places = IntArray(count)
    var at = 0
    for (place in mask.indices) if (mask[place]) places[at++] = place
    return places
}

/** Threads that help a search; they end by themselves, and never keep a process alive. */
private object ScanThreads {
    private const val IDLE_SECONDS = 10L

    val pool: ThreadPoolExecutor = Runtime.getRuntime().availableProcessors().let { cores ->
        ThreadPoolExecutor(cores, cores, IDLE_SECONDS, TimeUnit.SECONDS, LinkedBlockingQueue()) { work ->
            Thread(work, "magicmm-scan").apply { isDaemon = true }
        }.apply { allowCoreThreadTimeOut(true) }
    }
}
