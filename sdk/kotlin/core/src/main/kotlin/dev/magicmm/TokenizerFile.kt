package dev.magicmm

import java.text.Normalizer

/** A `tokenizer.json` that is broken, or of a kind that this SDK does not read. */
internal class TokenizerError(message: String) : IllegalArgumentException(message)

/** Read the text of a `tokenizer.json`; throws [TokenizerError]. */
internal fun parseTokenizer(text: String): Tokenizer {
    val top =
        try {
            JsonNode(Json.parse(text), "tokenizer")
        } catch (error: JsonError) {
            throw TokenizerError("it is not JSON: ${error.message}")
        }
    val normalizer = normalizer(top.orNull("normalizer"))
    val added = if (top.isNull("added_tokens")) emptyList() else top.nodes("added_tokens")
    val (normalized, plain) = added.partition { it.flag("normalized") }
    return Tokenizer(
        normalizer,
        preTokenizer(top.node("pre_tokenizer")),
        model(top.node("model")),
        AddedTokens(plain.map { addedToken(it) { content -> content } }),
        AddedTokens(normalized.map { addedToken(it, normalizer::normalize) }),
    )
}

private fun addedToken(node: JsonNode, normalize: (String) -> String): AddedToken {
    if (node.flag("single_word")) node.unsupported("single_word")
    return AddedToken(
        node.int("id"),
        normalize(node.text("content")),
        node.flag("special"),
        node.flag("lstrip"),
        node.flag("rstrip"),
    )
}

private fun normalizer(node: JsonNode?): TextNormalizer = when (val type = node?.text("type")) {
    null -> TextNormalizer { it }

    "NFC" -> TextNormalizer { Normalizer.normalize(it, Normalizer.Form.NFC) }

    "BertNormalizer" -> {
        val lowercase = node.flag("lowercase")
        BertNormalizer(
            node.flag("clean_text"),
            node.flag("handle_chinese_chars"),
            if (node.isNull("strip_accents")) lowercase else node.flag("strip_accents"),
            lowercase,
        )
    }

    else -> node.unsupported(type)
}

private fun preTokenizer(node: JsonNode): PreTokenizer = when (val type = node.text("type")) {
    "BertPreTokenizer" -> BertPreTokenizer
    "Sequence" -> qwenPieces(node)
    else -> node.unsupported(type)
}

/** The one sequence that is read: Qwen's pattern, then bytes. */
private fun qwenPieces(node: JsonNode): PreTokenizer {
    val steps = node.nodes("pretokenizers")
    if (steps.map { it.text("type") } != listOf("Split", "ByteLevel")) node.unsupported("this sequence")
    val (split, bytes) = steps
    val pattern = split.node("pattern").text("Regex")
    if (pattern != QwenPieces.PATTERN) split.unsupported("the pattern $pattern")
    if (split.text("behavior") != "Isolated" || split.flag("invert")) split.unsupported("its behaviour")
    if (bytes.flag("add_prefix_space") || bytes.flag("use_regex")) bytes.unsupported("a prefix or a second pattern")
    return QwenPieces
}

private fun model(node: JsonNode): TokenModel = when (val type = node.text("type")) {
    "WordPiece" -> wordPiece(node)
    "BPE" -> bytePairs(node)
    else -> node.unsupported(type)
}

private fun wordPiece(node: JsonNode): WordPiece {
    val vocab = node.node("vocab").ids()
    val unknown = vocab[node.text("unk_token")] ?: throw TokenizerError("the vocabulary lacks the unknown token")
    return WordPiece(vocab, unknown, node.text("continuing_subword_prefix"), node.int("max_input_chars_per_word"))
}

private fun bytePairs(node: JsonNode): BytePairs {
    for (key in listOf("dropout", "unk_token")) if (!node.isNull(key)) node.unsupported(key)
    for (key in listOf("continuing_subword_prefix", "end_of_word_suffix")) {
        if (!node.isNull(key) && node.text(key).isNotEmpty()) node.unsupported(key)
    }
    if (!node.isNull("byte_fallback") && node.flag("byte_fallback")) node.unsupported("byte_fallback")
    val vocab = node.node("vocab").ids()

    fun id(token: String): Int = vocab[token] ?: throw TokenizerError("the vocabulary lacks '$token'")
    val merges = node.list("merges")
    val table = MergeTable(merges.size)
    merges.forEachIndexed { rank, merge ->
        val (left, right) = pairOf(merge) ?: throw TokenizerError("merge $rank is no pair")
        table.add(id(left), id(right), rank, id(left + right))
    }
    val takesWhole = !node.isNull("ignore_merges") && node.flag("ignore_merges")
    return BytePairs(IntArray(256) { id(ByteAlphabet.spell(it)) }, table, if (takesWhole) vocab else null)
}

/** A merge is written as "left right", or as a list of both. */
private fun pairOf(merge: Any?): Pair<String, String>? {
    val parts = if (merge is String) merge.split(' ') else merge as? List<*> ?: return null
    val left = parts.getOrNull(0) as? String
    val right = parts.getOrNull(1) as? String
    return if (parts.size == 2 && left != null && right != null) left to right else null
}

/** One JSON object of the file, with errors that say where. */
private class JsonNode(value: Any?, private val name: String) {
    private val value = value as? Map<*, *> ?: throw TokenizerError("$name is no object")

    fun isNull(key: String): Boolean = value[key] == null

    fun node(key: String): JsonNode = JsonNode(value[key], "$name.$key")

    fun orNull(key: String): JsonNode? = if (isNull(key)) null else node(key)

    fun nodes(key: String): List<JsonNode> = list(key).mapIndexed { place, item ->
        JsonNode(item, "$name.$key[$place]")
    }

    fun list(key: String): List<Any?> = value[key] as? List<*> ?: throw TokenizerError("$name.$key is no list")

    fun text(key: String): String = value[key] as? String ?: throw TokenizerError("$name.$key is no text")

    fun flag(key: String): Boolean = value[key] as? Boolean ?: throw TokenizerError("$name.$key is no flag")

    fun int(key: String): Int = asId(value[key]) ?: throw TokenizerError("$name.$key is no number")

    /** The object as a vocabulary. */
    fun ids(): Map<String, Int> {
        if (value.isEmpty()) throw TokenizerError("$name is empty")
        return value.entries.associate { (token, id) ->
            token as String to (asId(id) ?: throw TokenizerError("$name has no id for '$token'"))
        }
    }

    fun unsupported(what: String): Nothing =
        throw TokenizerError("$name: $what is not supported; bundles have WordPiece (BERT) or byte-level BPE (Qwen)")

    private fun asId(item: Any?): Int? = (item as? Long)?.takeIf { it in 0..Int.MAX_VALUE }?.toInt()
}
