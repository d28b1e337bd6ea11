package dev.magicmm

import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import org.junit.jupiter.params.ParameterizedTest
import org.junit.jupiter.params.provider.ValueSource
import java.nio.file.Files
import java.nio.file.Path
import kotlin.test.assertEquals

class TokenizerTest {
    @TempDir
    lateinit var folder: Path

    private fun load(text: String): Tokenizer =
        Tokenizer.load(Files.write(folder.resolve("tokenizer.json"), text.toByteArray()))

    @ParameterizedTest
    @ValueSource(
        strings = [
            "",
            "[]",
            "{}",
            "not JSON",
            """{"pre_tokenizer": {"type": "BertPreTokenizer"}, "model": {"type": "Unigram", "vocab": []}}""",
            """{"normalizer": {"type": "Sequence", "normalizers": []}, "model": {"type": "Unigram", "vocab": []}}""",
            """{"pre_tokenizer": {"type": "Metaspace"}, "model": {"type": "WordPiece"}}""",
            """{"pre_tokenizer": {"type": "BertPreTokenizer"}, "model": {"type": "WordPiece", "unk_token": "u", "vocab": {}}}""",
        ],
    )
    fun `files that are no tokenizer`(text: String) {
        assertCode(ErrorCode.BUNDLE_INVALID) { load(text) }
    }

    @Test
    fun `vocabularies that are broken`() {
        for (vocab in listOf(
            "{}",
            "[]",
            """{"red": 1}""",
            """{"[UNK]": -1}""",
            """{"[UNK]": "0"}""",
            """{"[UNK]": 1.5}""",
        )) {
            assertCode(ErrorCode.BUNDLE_INVALID) { load(wordPiece(vocab)) }
        }
    }

    @Test
    fun `a file that is not there`() {
        assertCode(ErrorCode.BUNDLE_INVALID) { Tokenizer.load(folder.resolve("none.json")) }
    }

    @Test
    fun `added tokens of single words are refused and not read differently`() {
        val token =
            """[{"id": 9, "content": "cat", "single_word": true, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false}]"""
        assertCode(ErrorCode.BUNDLE_INVALID) { load(wordPiece(added = token)) }
    }

    private fun bytePairs(merges: String, rest: String = "", pattern: String = QwenPieces.PATTERN): String {
        val alphabet = (0 until 256).associate { ByteAlphabet.spell(it) to it.toLong() }
        val vocab = canonicalJson(alphabet + mapOf("ab" to 256L, "abc" to 257L, "bc" to 258L))
        return """{"added_tokens": [], "normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence",
            "pretokenizers": [{"type": "Split", "pattern": {"Regex": ${canonicalJson(pattern)}}, "behavior": "Isolated",
            "invert": false}, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
            "model": {"type": "BPE", "vocab": $vocab, "merges": $merges$rest}}"""
    }

    @Test
    fun `merges in both spellings`() {
        val expected = listOf(256, 'c'.code, ' '.code, 258)
        assertEquals(expected, load(bytePairs("""["a b", "b c"]""")).encode("abc bc"))
        assertEquals(expected, load(bytePairs("""[["a", "b"], ["b", "c"]]""")).encode("abc bc"))
    }

    @Test
    fun `whole pieces first where the file says so`() {
        assertEquals(listOf(257), load(bytePairs("""["b c"]""", ", \"ignore_merges\": true")).encode("abc"))
        assertEquals(listOf('a'.code, 258), load(bytePairs("""["b c"]""", ", \"ignore_merges\": false")).encode("abc"))
    }

    @Test
    fun `byte pairs of kinds that are not read`() {
        for (merges in listOf("""["a"]""", """["a b c"]""", "[7]", """[["a", 7]]""", """["a x?"]""", """["b b"]""")) {
            assertCode(ErrorCode.BUNDLE_INVALID) { load(bytePairs(merges)) }
        }
        for (rest in listOf(
            "\"dropout\": 0.1",
            "\"unk_token\": \"a\"",
            "\"end_of_word_suffix\": \"_\"",
            "\"byte_fallback\": true",
        )) {
            assertCode(ErrorCode.BUNDLE_INVALID) { load(bytePairs("[]", ", $rest")) }
        }
        assertCode(ErrorCode.BUNDLE_INVALID) { load(bytePairs("[]", pattern = "\\w+")) }
    }
}
