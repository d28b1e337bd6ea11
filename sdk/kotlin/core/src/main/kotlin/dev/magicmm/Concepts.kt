package dev.magicmm

import java.text.Normalizer
import java.util.Locale

// Taught names: what they are called, and where a text names one (docs/FORMAT.md, part 4, "Taught names").

/**
 * Something of the user's own that was taught by photos.
 *
 * @property name What searches call it.
 * @property noun What it is in words that the model knows ("a dog"), or null.
 * @property examples Photos it was taught by, whose vectors are of the index's model: what searches use.
 * @property stale Photos it was taught by, whose vectors are of another model; they count again when they are found.
 * @property uris Where the photos lay when they were taught; photos given as bytes have no place.
 */
public data class Concept(
    val name: String,
    val noun: String?,
    val examples: Int,
    val stale: Int,
    val uris: List<String>,
)

/** One word of a text: its place and its folded form. */
private class Word(val start: Int, val stop: Int, val folded: String)

/**
 * The names in a text, and the text without them.
 *
 * @property keys The folded words of each name, in the order of the text, each name once.
 * @property rest Null when no word is left that says anything of the photo.
 */
@MagicInternals
public class SplitText(public val keys: List<List<String>>, public val rest: String?)

private const val MAX_NAME = 100
private const val FIRST_ACCENT = '\u0300'
private const val LAST_ACCENT = '\u036F'
private const val APOSTROPHES = "'\u2019"

/** Words that, alone beside a name, say nothing of the photo: "show me all photos of Momo". */
private val FILLERS = (
    "a all an and at find from image images in me my of on or our photo photos pic pics picture pictures please" +
        " search show some that the these this those to with"
    ).split(" ").toSet()

private val LETTERS_NUMBERS_MARKS = setOf(
    Character.UPPERCASE_LETTER,
    Character.LOWERCASE_LETTER,
    Character.TITLECASE_LETTER,
    Character.MODIFIER_LETTER,
    Character.OTHER_LETTER,
    Character.DECIMAL_DIGIT_NUMBER,
    Character.LETTER_NUMBER,
    Character.OTHER_NUMBER,
    Character.NON_SPACING_MARK,
    Character.COMBINING_SPACING_MARK,
    Character.ENCLOSING_MARK,
).map { it.toInt() }.toSet()

private val UNSEEN = setOf(
    Character.CONTROL,
    Character.FORMAT,
    Character.SURROGATE,
    Character.PRIVATE_USE,
    Character.UNASSIGNED,
    Character.LINE_SEPARATOR,
    Character.PARAGRAPH_SEPARATOR,
).map { it.toInt() }.toSet()

/** Returns the folded words of a name: what makes two names one. */
@MagicInternals
public fun nameKey(name: String): List<String> = wordsOf(name).map { it.folded }

/** Tells a name from a path or a URI, which [Gallery.forget] takes, too. */
internal fun mayBeName(text: String): Boolean = '/' !in text && '\\' !in text

/**
 * Returns a name as it is kept: NFC, single spaces.
 *
 * @throws MagicError `argument_invalid` for what no text could name.
 */
internal fun tidyName(name: String): String {
    val tidy = oneLine(Normalizer.normalize(name, Normalizer.Form.NFC))
    val key = nameKey(tidy)
    val why = when {
        key.isEmpty() -> "has no letters"
        FILLERS.containsAll(key) -> "is a word of too many searches"
        tidy.codePointCount(0, tidy.length) > MAX_NAME -> "has more than $MAX_NAME characters"
        !mayBeName(tidy) || !isShown(tidy) -> "holds a slash or a character that cannot be shown"
        else -> return tidy
    }
    throw MagicError(ErrorCode.ARGUMENT_INVALID, "The name \"$tidy\" $why.", "Give a name such as \"our dog\".")
}

/** Finds names in a text as whole words, names of more words first. */
@MagicInternals
public fun splitNames(text: String, keys: Collection<List<String>>): SplitText {
    val words = wordsOf(text)
    val folded = words.map { it.folded }
    val isTaken = BooleanArray(words.size)
    val found = sortedMapOf<Int, List<String>>() // by the first word
    for ((length, some) in keys.groupBy { it.size }.toSortedMap(reverseOrder())) {
        val wanted = some.toSet()
        for (first in 0..words.size - length) {
            val span = first until first + length
            if (folded.subList(first, first + length) in wanted && span.none { isTaken[it] }) {
                span.forEach { isTaken[it] = true }
                found[first] = folded.subList(first, first + length).toList()
            }
        }
    }
    if (found.isEmpty()) return SplitText(emptyList(), text)
    return SplitText(found.values.distinct(), without(text, words, found))
}

/** Returns the pieces between the names, but for those of fillers alone ("photos of", "and"). */
private fun without(text: String, words: List<Word>, found: Map<Int, List<String>>): String? {
    val pieces = ArrayList<String>()
    var end = 0
    for ((first, key) in found) {
        pieces += text.substring(end, words[first].start)
        val behind = words.getOrNull(first + key.size)
        end = words[first + key.size - 1].stop
        // The "'s" of "Momo's ball".
        if (behind != null && behind.start == end + 1 && behind.folded == "s" && text[end] in APOSTROPHES) {
            end = behind.stop
        }
    }
    pieces += text.substring(end)
    return pieces.mapNotNull(::said).joinToString(" ").ifEmpty { null }
}

/** Returns a piece from its first word on, or null when it says nothing. */
private fun said(piece: String): String? {
    val words = wordsOf(piece)
    // From the first word on: without the comma of "Momo, in the park".
    return if (words.all { it.folded in FILLERS }) null else oneLine(piece.substring(words[0].start))
}

/** Splits a text into words: runs of letters, numbers, marks and underscores. */
private fun wordsOf(text: String): List<Word> {
    val found = ArrayList<Word>()
    var start = -1
    var place = 0
    while (place <= text.length) {
        val codePoint = if (place < text.length) text.codePoint(place) else ' '.code
        if (codePoint == '_'.code || Character.getType(codePoint) in LETTERS_NUMBERS_MARKS) {
            if (start < 0) start = place
        } else if (start >= 0) {
            found += Word(start, place, fold(text.substring(start, place)))
            start = -1
        }
        place += Character.charCount(codePoint)
    }
    return found
}

private fun fold(word: String): String =
    oneCase(Normalizer.normalize(oneCase(word), Normalizer.Form.NFKD).filterNot { it in FIRST_ACCENT..LAST_ACCENT })

/** Upper case first makes one of "ß" and "SS", of the two lower-case sigmas, and of the dotless i and I. */
private fun oneCase(word: String): String = eachCodePoint(word) { eachCodePoint(it.uppercase(Locale.ROOT), ::small) }

/** One character at a time: a sigma alone does not end a word. */
private fun small(character: String): String = character.lowercase(Locale.ROOT)

private fun oneLine(text: String): String =
    text.map { if (isWhiteSpace(it.code)) ' ' else it }.joinToString("").split(' ').filter { it.isNotEmpty() }
        .joinToString(" ")

private fun isShown(text: String): Boolean {
    var place = 0
    while (place < text.length) {
        val codePoint = text.codePoint(place)
        if (Character.getType(codePoint) in UNSEEN) return false
        place += Character.charCount(codePoint)
    }
    return true
}
