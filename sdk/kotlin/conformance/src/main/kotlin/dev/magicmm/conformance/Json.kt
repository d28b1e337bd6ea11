package dev.magicmm.conformance

import com.google.gson.GsonBuilder
import com.google.gson.JsonElement
import com.google.gson.JsonObject
import com.google.gson.JsonParser
import dev.magicmm.MagicError

private val gson = GsonBuilder().serializeNulls().disableHtmlEscaping().create()

internal fun parse(text: String): JsonObject = JsonParser.parseString(text).asJsonObject

internal fun JsonObject.value(key: String): JsonElement? = get(key)?.takeUnless { it.isJsonNull }

internal fun JsonObject.text(key: String): String = get(key).asString

internal fun JsonObject.number(key: String): Double? = value(key)?.asDouble

/** Prints one line: what [work] returns as `result`, or the code of its error as `error`, after [facts]. */
internal fun answer(facts: Map<String, Any?>, work: () -> Any?) {
    val outcome = try {
        mapOf("result" to work())
    } catch (error: MagicError) {
        mapOf("error" to error.code.value, "message" to error.toString())
    }
    println(gson.toJson(facts + outcome))
    System.out.flush()
}
