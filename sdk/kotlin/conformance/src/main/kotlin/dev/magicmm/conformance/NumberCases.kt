package dev.magicmm.conformance

import dev.magicmm.ByteMatrix
import dev.magicmm.ErrorCode
import dev.magicmm.SkipReason
import dev.magicmm.quantise
import dev.magicmm.score
import dev.magicmm.unpack

/** Cases of `quantise.json`. */
internal fun runQuantise(case: Case): Any {
    val given = case.inner("input")
    if (given.text("operation") == "score") {
        val (query, photo) = listOf("query", "photo").map(given::inner)
        val dot = query.ints("codes").zip(photo.ints("codes")).sumOf { (one, other) -> one * other }
        return mapOf("score" to score(dot, query.float("scale"), photo.float("scale")).toDouble())
    }
    val found = quantise(given.floats("vector"))
    return mapOf("codes" to found.codes.toList(), "scale" to found.scale.toDouble())
}

/** Cases of `packed.json`. */
internal fun runPacked(case: Case): Any {
    val given = case.inner("input")
    val weights = unpack(matrixOf(given.list("codes")), matrixOf(given.list("multipliers")))
    return mapOf("values" to weights.values.toList().chunked(weights.columns))
}

private fun matrixOf(rows: List<Any?>): ByteMatrix {
    val numbers = rows.map { row -> (row as List<*>).map { (it as Long).toByte() } }
    return ByteMatrix(numbers.size, numbers.first().size, numbers.flatten().toByteArray())
}

/** Cases of `errors.json`: what this SDK knows of a code or a reason, and how many of them it has. */
internal fun runErrors(case: Case): Any {
    val name = case.text("name")
    if (case.inner("input").text("kind") == "code") {
        return mapOf("known" to ErrorCode.entries.any { it.value == name }, "of" to ErrorCode.entries.size)
    }
    val reason = SkipReason.entries.find { it.value == name }
    return mapOf("is_transient" to reason?.isTransient, "known" to (reason != null), "of" to SkipReason.entries.size)
}
