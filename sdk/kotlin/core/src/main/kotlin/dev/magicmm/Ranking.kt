package dev.magicmm

import kotlin.math.sqrt

// Exact ranking by cosine plus a bonus that few values share.
//
// All photos with the same bonus keep their order, so the k best of each such group and the k best of all hold the k
// best of the sum: k asked is k given, and no photo is overlooked for standing too low by its cosine alone.

/**
 * What one signal adds to the cosine, in standard deviations of the library's scores for the query. Chosen by
 * benchmarks/signals.py: a right date helps much, and one that says nothing does no harm.
 */
private const val STRENGTH = 0.5

/**
 * Returns the k best by cosine and by what the words of a query say of time and place.
 *
 * @param query What to find; its least score is a cosine.
 * @param selected Ids that pass the filter; null = all.
 * @param fired The signals, one or more.
 * @param photos What EXIF says.
 */
@MagicInternals
public fun rankedBySignals(
    index: Index,
    matrix: ScanMatrix,
    query: Query,
    selected: LongArray?,
    fired: List<Fired>,
    photos: ExifColumns,
): Results {
    val judged = judge(fired, photos)
    val weight = STRENGTH * deviation(matrix.background(query))
    val bonus = DoubleArray(photos.size) { row -> weight * judged.values.count { it[row] > 0 } }
    val (best, searched) = rankedWithBonus(matrix, query, selected, photos.ids, bonus)
    val matches = index.matches(best.ids, best.scores).map { it.copy(signals = signalsOf(judged, photos, it.id)) }
    return Results(matches, searched, signals = fired.map { it.signal }, signalWeight = weight)
}

/**
 * Returns the k best by cosine + bonus (their cosines, and ids), and how many rows took part.
 *
 * @param ids Photos with a [bonus], from 0 on; all others have none.
 */
private fun rankedWithBonus(
    matrix: ScanMatrix,
    query: Query,
    selected: LongArray?,
    ids: LongArray,
    bonus: DoubleArray,
): Pair<Best, Int> {
    val (plainly, searched) = matrix.search(query, selected)
    val ranked = ranksOf(plainly, 0.0)
    val wanted = selected?.let(::IdSet)
    val lifted = ids.indices.filter { bonus[it] > 0 && (wanted == null || ids[it] in wanted) }
    for ((value, rows) in lifted.groupBy { bonus[it] }) {
        ranked += ranksOf(matrix.search(query, LongArray(rows.size) { ids[rows[it]] }).first, value)
    }
    // A photo with a bonus may also be among the best of all, without it: its first place counts.
    val best = ranked.sortedWith(compareByDescending<Rank> { it.total }.thenBy { it.id }).distinctBy { it.id }
        .take(query.k)
    return Best(FloatArray(best.size) { best[it].score }, LongArray(best.size) { best[it].id }) to searched
}

private class Rank(val id: Long, val score: Float, val total: Double)

private fun ranksOf(best: Best, bonus: Double): MutableList<Rank> = best.ids.indices.mapTo(ArrayList()) {
    // Adding 0 makes one of both zeros, of which a comparison would call one less.
    Rank(best.ids[it], best.scores[it], best.scores[it].toDouble() + bonus + 0.0)
}

/** Returns the standard deviation of values; 0 of none. */
private fun deviation(values: FloatArray): Double {
    if (values.isEmpty()) return 0.0
    val mean = values.sumOf { it.toDouble() } / values.size
    return sqrt(values.sumOf { (it - mean) * (it - mean) } / values.size)
}
