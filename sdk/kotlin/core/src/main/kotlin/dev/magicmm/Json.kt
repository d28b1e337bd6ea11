package dev.magicmm

import java.math.BigInteger

/** A text that is no JSON, or JSON that readers might take in different ways. */
@MagicInternals
public class JsonError internal constructor(message: String) : IllegalArgumentException(message)

/**
 * A strict JSON reader: no key twice in one object, no NaN, no infinity, nothing behind the value.
 *
 * Values are `Map<String, Any?>` (in the order of the text), `List<Any?>`, `String`, `Boolean`, `null`, `Long` or, beyond
 * it, `BigInteger` for whole numbers without fraction and exponent, and `Double` for all others.
 */
@MagicInternals
public class Json private constructor(private val text: String) {
    private var at = 0

    private fun document(): Any? {
        val value = value(0)
        skipSpace()
        if (at < text.length) fail("something follows the value")
        return value
    }

    private fun value(depth: Int): Any? {
        if (depth > MOST_DEPTH) fail("it is nested too deeply")
        skipSpace()
        return when (peek()) {
            '{' -> objectValue(depth)
            '[' -> arrayValue(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun objectValue(depth: Int): Map<String, Any?> {
        val entries = LinkedHashMap<String, Any?>()
        at++
        skipSpace()
        if (peek() == '}') {
            at++
            return entries
        }
        while (true) {
            skipSpace()
            if (peek() != '"') fail("a key is no string")
            val key = string()
            skipSpace()
            expect(':')
            val value = value(depth + 1)
            if (key in entries) fail("a key comes twice in one object")
            entries[key] = value
            skipSpace()
            if (peek() == '}') break
            expect(',')
        }
        at++
        return entries
    }

    private fun arrayValue(depth: Int): List<Any?> {
        val items = ArrayList<Any?>()
        at++
        skipSpace()
        if (peek() == ']') {
            at++
            return items
        }
        while (true) {
            items.add(value(depth + 1))
            skipSpace()
            if (peek() == ']') break
            expect(',')
        }
        at++
        return items
    }

    private fun string(): String {
        val start = ++at
        while (at < text.length && text[at] != '"' && text[at] != '\\' && text[at] >= ' ') at++
        if (peek() == '"') return text.substring(start, at++)
        val buffer = StringBuilder(text.substring(start, at))
        while (true) {
            val char = peek() ?: fail("a string does not end")
            at++
            when {
                char == '"' -> return buffer.toString()
                char == '\\' -> buffer.append(escaped())
                char < ' ' -> fail("a string holds a control character")
                else -> buffer.append(char)
            }
        }
    }

    private fun escaped(): Char {
        val char = peek() ?: fail("a string does not end")
        at++
        return when (char) {
            '"', '\\', '/' -> char
            'b' -> '\b'
            'f' -> '\u000c'
            'n' -> '\n'
            'r' -> '\r'
            't' -> '\t'
            'u' -> hexDigits()
            else -> fail("\\$char is no escape")
        }
    }

    private fun hexDigits(): Char {
        var code = 0
        repeat(4) {
            val digit = peek()?.let { if (it < '\u0080') Character.digit(it, 16) else -1 } ?: -1
            if (digit < 0) fail("\\u must be followed by four hex digits")
            code = code * 16 + digit
            at++
        }
        return code.toChar()
    }

    private fun number(): Any {
        val start = at
        if (peek() == '-') at++
        if (peek() == '0') at++ else digits()
        val wholeEnd = at
        if (peek() == '.') {
            at++
            digits()
        }
        if (peek() == 'e' || peek() == 'E') {
            at++
            if (peek() == '+' || peek() == '-') at++
            digits()
        }
        val said = text.substring(start, at)
        if (at > wholeEnd) return said.toDouble()
        // Reading decimal digits takes quadratic time; no key that anybody reads is that long.
        if (said.length > MOST_DIGITS) fail("a number has too many digits")
        return said.toLongOrNull() ?: BigInteger(said)
    }

    private fun digits() {
        val start = at
        while (at < text.length && text[at] in '0'..'9') at++
        if (at == start) fail("a value is expected")
    }

    private fun <T> word(word: String, value: T): T {
        if (!text.startsWith(word, at)) fail("a value is expected")
        at += word.length
        return value
    }

    private fun expect(char: Char) {
        if (peek() != char) fail("'$char' is expected")
        at++
    }

    private fun skipSpace() {
        while (at < text.length && (text[at] == ' ' || text[at] == '\n' || text[at] == '\r' || text[at] == '\t')) at++
    }

    private fun peek(): Char? = if (at < text.length) text[at] else null

    private fun fail(what: String): Nothing = throw JsonError("$what, at character $at")

    public companion object {
        private const val MOST_DEPTH = 900
        private const val MOST_DIGITS = 4300

        /** Read one JSON value; throws [JsonError]. */
        public fun parse(text: String): Any? = Json(text).document()
    }
}
