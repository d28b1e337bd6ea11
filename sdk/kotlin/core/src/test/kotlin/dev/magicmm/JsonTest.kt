package dev.magicmm

import org.junit.jupiter.api.Test
import org.junit.jupiter.params.ParameterizedTest
import org.junit.jupiter.params.provider.ValueSource
import java.math.BigInteger
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class JsonTest {
    @ParameterizedTest
    @ValueSource(
        strings = [
            "", " ", "tru", "nul", "[1,]", "[1 2]", "{\"a\":1,}", "{a:1}", "{\"a\" 1}", "{\"a\":1,\"a\":2}", "{\"a\":1",
            "\"a", "\"\\x\"", "\"\\u12\"", "\"\\u12G4\"", "\"\\u\u0661\u0662\u0663\u0664\"", "\"a\nb\"", "\"\\", "'a'",
            "01", "+1", "-", "1.", ".5", "1e", "NaN", "Infinity", "-Infinity", "1 1", "[1]]", "\uFEFF1", "[1] // x",
        ],
    )
    fun `what is no JSON`(text: String) {
        assertFailsWith<JsonError> { Json.parse(text) }
    }

    @Test
    fun `values of all kinds`() {
        val text = """ {"a": [1, -0, 2.5, 1e2, 12345678901234567890], "b": {"c": null, "d": [true, false, {}, []]}} """
        val expected =
            mapOf(
                "a" to listOf(1L, 0L, 2.5, 100.0, BigInteger("12345678901234567890")),
                "b" to mapOf("c" to null, "d" to listOf(true, false, emptyMap<String, Any?>(), emptyList<Any?>())),
            )
        assertEquals(expected, Json.parse(text))
        assertEquals(
            "a\"\\/\b\u000c\n\r\té\uD83D\uDE00\uD800",
            Json.parse("\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83D\\ude00\\ud800\""),
        )
    }

    @Test
    fun `nesting and numbers have an end`() {
        Json.parse("[".repeat(800) + "]".repeat(800))
        assertFailsWith<JsonError> { Json.parse("[".repeat(100_000)) }
        Json.parse("9".repeat(4000))
        assertFailsWith<JsonError> { Json.parse("9".repeat(5000)) }
    }
}
