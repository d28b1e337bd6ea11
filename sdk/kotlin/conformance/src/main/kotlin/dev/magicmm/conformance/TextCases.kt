package dev.magicmm.conformance

import dev.magicmm.Tokenizer
import dev.magicmm.checkText
import dev.magicmm.fitTokens
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.file.Path

private const val NANO = "../../sdk/python/magicmm/bundles/nano.magicmm/tokenizer.json"

/** Cases of `tokenizer.json`; the tokenizers lie beside it, that of nano in its bundle. */
internal class TextCases(folder: Path) {
    private val tokenizers =
        mapOf("nano" to NANO, "tiny" to "tiny_tokenizer.json", "bpe" to "bpe_tokenizer.json")
            .mapValues { (_, file) -> lazy { Tokenizer.load(folder.resolve(file)) } }

    fun run(case: Case): Any {
        val given = case.inner("input")
        val tokenizer = tokenizers.getValue(given.text("tokenizer")).value
        if ("operation" in given) return characters(given, tokenizer)
        val ids = tokenizer.encode(checkText(textOf(given)))
        return mapOf("ids" to fitTokens(ids, given.int("most"), given.flag("truncate")))
    }

    /** `utf16` holds what JSON cannot. */
    private fun textOf(given: Case): String {
        if ("utf16" in given) return String(given.ints("utf16").map { it.toChar() }.toCharArray())
        return given.text("text").repeat(if ("times" in given) given.int("times") else 1)
    }

    /** A digest of the ids of all characters in a range, each between others that show where a tokenizer cuts. */
    private fun characters(given: Case, tokenizer: Tokenizer): Any {
        val text = StringBuilder()
        for (code in given.int("first")..given.int("last")) {
            if (code in 0xD800..0xDFFF) continue
            text.append(" a").appendCodePoint(code).append("! a").appendCodePoint(code).append('b')
        }
        val ids = tokenizer.encode(text.toString())
        val bytes = ByteBuffer.allocate(Int.SIZE_BYTES * ids.size).order(ByteOrder.LITTLE_ENDIAN)
        ids.forEach { bytes.putInt(it) }
        return mapOf("count" to ids.size, "sha256" to sha256(bytes.array()))
    }
}
