package dev.magicmm.conformance

import com.google.gson.JsonObject
import dev.magicmm.Quantised
import dev.magicmm.Query
import dev.magicmm.Segment
import dev.magicmm.topK

/** A case of `search.json`; [threads] must not matter. */
internal fun searchCase(input: JsonObject, threads: Int): Map<String, Any?> {
    val dim = input["dim"].asInt
    val codes = bytesOf(input.text("codes_hex"))
    val scales = input["scales"].asJsonArray
    val vectors = scales.mapIndexed { row, scale ->
        Quantised(codes.copyOfRange(row * dim, (row + 1) * dim), scale.asFloat)
    }
    val ids = input["ids"].asJsonArray.map { it.asLong }.toLongArray()
    val segment = Segment.of(dim, vectors, ids, input.flags("alive"))
    val query = Query(quantisedOf(input["query"].asJsonObject), input["k"].asInt, input.number("min_score"))
    val best = topK(segment, query, input.flags("selected"), threads)
    return mapOf("ids" to best.ids.toList(), "scores" to best.scores.map { it.toDouble() })
}

internal fun quantisedOf(input: JsonObject): Quantised =
    Quantised(input["codes"].asJsonArray.map { it.asByte }.toByteArray(), input["scale"].asFloat)

private fun JsonObject.flags(key: String): BooleanArray? =
    value(key)?.asJsonArray?.map { it.asBoolean }?.toBooleanArray()

private fun bytesOf(hex: String): ByteArray =
    ByteArray(hex.length / 2) { hex.substring(2 * it, 2 * it + 2).toInt(16).toByte() }
