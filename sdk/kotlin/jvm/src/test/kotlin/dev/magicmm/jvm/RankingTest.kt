package dev.magicmm.jvm

import dev.magicmm.ErrorCode
import dev.magicmm.Filter
import dev.magicmm.Gallery
import dev.magicmm.Match
import dev.magicmm.Signal
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Path
import kotlin.math.sqrt

/** Signals in a gallery: the exact ranking by cosine and EXIF, and how to turn it off. */
class RankingTest {
    @TempDir
    lateinit var folder: Path
    private lateinit var gallery: Gallery
    private val path get() = folder.resolve("index.db")

    @BeforeEach
    fun index() {
        makePhotos(folder.resolve("photos"), 40)
        gallery = galleryOf(path, HashEmbedder(), folder.resolve("photos"))
        gallery.sync()
    }

    @AfterEach
    fun close() = gallery.close()

    @Test
    fun `without EXIF nothing changes`() {
        for (k in listOf(1, 7, 40)) {
            val (found, plainly) = listOf(true, false).map { gallery.search(TEXT, k = k, signals = it) }
            assertEquals(plainly.matches, found.matches)
            assertEquals(listOf(Signal("time", "at noon"), Signal("place", "in paris")), found.signals)
            assertEquals(emptyList<Signal>() to 0.0, plainly.run { signals to signalWeight })
        }
    }

    @Test
    fun `the ranking is that of cosine and signals over all photos`() {
        setFacts("taken = CASE id % 3 WHEN 0 THEN NULL ELSE (11 + id % 5) * 3600.0 END")
        setFacts("latitude = CASE id % 4 WHEN 0 THEN NULL ELSE 48.86 + id % 3 END, longitude = 2.35")
        val plainly = gallery.search(TEXT, k = 40, signals = false).matches
        val scores = plainly.map { it.score.toDouble() }
        val weight = sqrt(scores.sumOf { (it - scores.average()) * (it - scores.average()) } / 40) / 2
        val all = plainly.map { it.copy(signals = signalsOf(it.id)) }
            .sortedWith(compareByDescending<Match> { it.score + weight * it.signals.values.sum() }.thenBy { it.id })
        val ids = all.map { it.id }.filter { it % 2 == 0L }
        for (k in listOf(1, 3, 10, 40)) {
            val found = gallery.search(TEXT, k = k)
            assertEquals(all.take(k), found.matches)
            assertEquals(weight, found.signalWeight, 1e-12)
            val filtered = gallery.search(TEXT, k = k, where = Filter(ids = ids))
            assertEquals(all.filter { it.id in ids }.take(k), filtered.matches)
            assertEquals(ids.size, filtered.searched)
        }
        assertTrue(all != plainly.map { it.copy(signals = signalsOf(it.id)) })
        val least = plainly[9].score.toDouble()
        assertEquals(10, gallery.search(TEXT, k = 40, minScore = least).matches.size)
    }

    @Test
    fun `facts that are no numbers are index_corrupt`() {
        setFacts("latitude = 'north'")
        assertEquals(ErrorCode.INDEX_CORRUPT, codeOf { gallery.search(TEXT) })
    }

    /** What [setFacts] has told of a photo by the rule of its id. */
    private fun signalsOf(id: Long): Map<String, Double> = buildMap {
        if (id % 3 != 0L) put("time", if (11 + id % 5 < 14) 1.0 else 0.0)
        if (id % 4 != 0L) put("place", if (id % 3 == 0L) 1.0 else 0.0)
    }

    private fun setFacts(assignments: String) {
        execute(path, "UPDATE photo SET $assignments")
        execute(path, "UPDATE meta SET value = value + 1 WHERE key = 'generation'")
    }

    private companion object {
        const val TEXT = "red at noon in Paris"
    }
}
