package dev.magicmm

/**
 * One token that stands outside of a tokenizer's vocabulary.
 *
 * @property isSpecial Special tokens written in a text are plain text: a query cannot close its own prompt.
 * @property stripsLeft White space before it belongs to it.
 * @property stripsRight White space behind it belongs to it.
 */
internal class AddedToken(
    val id: Int,
    val content: String,
    val isSpecial: Boolean,
    val stripsLeft: Boolean,
    val stripsRight: Boolean,
)

/** Finds added tokens in a text: from left to right, the longest at each place. */
internal class AddedTokens(tokens: List<AddedToken>) {
    private class Node(val next: HashMap<Char, Node> = HashMap(), var token: AddedToken? = null)

    private val root = Node()

    init {
        for (token in tokens) {
            var node = root
            for (char in token.content) node = node.next.getOrPut(char) { Node() }
            node.token = token
        }
    }

    /** Call [onToken] and [onText] for what the text consists of, in order. */
    inline fun split(text: String, onText: (String) -> Unit, onToken: (Int) -> Unit) {
        var start = 0
        var at = 0
        while (at < text.length) {
            val token = longestAt(text, at)
            if (token == null) {
                at++
                continue
            }
            var begin = at
            at += token.content.length
            if (token.isSpecial) continue // and nothing that begins inside of it is looked for
            if (token.stripsLeft) while (begin > start && isWhiteSpace(text[begin - 1].code)) begin--
            if (token.stripsRight) while (at < text.length && isWhiteSpace(text[at].code)) at++
            if (begin > start) onText(text.substring(start, begin))
            onToken(token.id)
            start = at
        }
        if (start < text.length) onText(text.substring(start))
    }

    fun longestAt(text: String, start: Int): AddedToken? {
        var node = root
        var longest: AddedToken? = null
        for (at in start until text.length) {
            node = node.next[text[at]] ?: break
            longest = node.token ?: longest
        }
        return longest
    }
}
