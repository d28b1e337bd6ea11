package dev.magicmm.conformance

import com.google.gson.JsonObject
import dev.magicmm.Filter
import dev.magicmm.GeoBox
import dev.magicmm.Index
import dev.magicmm.Query
import dev.magicmm.Results
import dev.magicmm.ScanMatrix
import dev.magicmm.exifColumns
import dev.magicmm.jvm.SqliteJdbc
import dev.magicmm.matches
import dev.magicmm.rankedBySignals
import dev.magicmm.readSignals
import dev.magicmm.selectIds
import java.nio.file.Path
import java.time.LocalDate
import java.time.LocalDateTime
import java.time.OffsetDateTime
import java.time.temporal.Temporal

/** Runs one search of `index_v1.json` in an index file, as `Gallery.search` does once the query is a vector. */
internal fun indexCase(indexPath: Path, input: JsonObject): Map<String, Any?> =
    Index(indexPath, SqliteJdbc).use { index -> index.snapshot { search(index, input) } }

private fun search(index: Index, input: JsonObject): Map<String, Any?> {
    val model = checkNotNull(index.activeModel()) { "the index has no model" }
    val query = Query(quantisedOf(input), input["k"].asInt, input.number("min_score"))
    val where = input.value("where")?.asJsonObject?.let(::filterOf) ?: Filter()
    val selected = if (where.isEmpty) null else index.selectIds(where)
    val matrix = ScanMatrix.load(index, model)
    val fired = input.value("words")?.asString?.let(::readSignals).orEmpty()
    if (fired.isNotEmpty()) return facts(rankedBySignals(index, matrix, query, selected, fired, index.exifColumns()))
    val (best, searched) = matrix.search(query, selected)
    return mapOf(
        "ids" to best.ids.toList(),
        "scores" to best.scores.map { it.toDouble() },
        "uris" to index.matches(best.ids, best.scores).map { it.uri },
        "searched" to searched,
    )
}

private fun facts(results: Results): Map<String, Any?> = mapOf(
    "ids" to results.matches.map { it.id },
    "scores" to results.matches.map { it.score.toDouble() },
    "uris" to results.matches.map { it.uri },
    "searched" to results.searched,
    "signals" to results.signals.map { listOf(it.kind, it.words) },
    "told" to results.matches.map { it.signals },
)

/** Reads a filter with the keys of Python's `Filter`. */
internal fun filterOf(input: JsonObject): Filter = Filter(
    since = input.value("since")?.asString?.let(::momentOf),
    until = input.value("until")?.asString?.let(::momentOf),
    under = input.value("under")?.asJsonArray?.map { it.asString }.orEmpty(),
    minBytes = input.value("min_bytes")?.asLong,
    maxBytes = input.value("max_bytes")?.asLong,
    minSide = input.value("min_side")?.asInt,
    box = input.value("box")?.asJsonObject?.run {
        GeoBox(get("south").asDouble, get("west").asDouble, get("north").asDouble, get("east").asDouble)
    },
    ids = input.value("ids")?.asJsonArray?.map { it.asLong },
)

private fun momentOf(text: String): Temporal = when {
    'T' !in text -> LocalDate.parse(text)
    text.endsWith("Z") || '+' in text -> OffsetDateTime.parse(text)
    else -> LocalDateTime.parse(text)
}
