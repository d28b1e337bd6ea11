package dev.magicmm.jvm

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Files
import java.nio.file.Path
import kotlin.random.Random

private const val PHOTOS = 300
private const val BATCH = 16
private const val KILLS = 24

/** Killed at any moment: nothing lost, nothing doubled, at most one batch done twice, no litter. */
class KillTest {
    @TempDir
    lateinit var folder: Path
    private val random = Random(20)
    private var midway = 0
    private val photos get() = folder.resolve("photos")

    @Test
    fun `syncs and rebuilds killed at random moments end with the index of undisturbed ones`() {
        makePhotos(photos, PHOTOS)
        val undisturbed = Scenario("undisturbed")
        val millis = undisturbed.runs("sync")
        undisturbed.runs("rebuild")
        var kills = 0
        var scenarios = 0
        while (kills < KILLS || scenarios < 2) {
            val scenario = Scenario("${scenarios++}")
            for (verb in listOf("sync", "rebuild")) {
                while (scenario.isKilled(verb, random.nextLong(millis * 4 / 5))) kills++
            }
            scenario.check()
            assertEquals(undisturbed.content(), scenario.content())
        }
        println("killed $kills processes in $scenarios scenarios, $midway of them amid the work")
        assertTrue(midway >= KILLS / 3, "most kills came before or after the work: $midway of $kills")
    }

    private inner class Scenario(name: String) {
        private val index = Files.createDirectories(folder.resolve(name)).resolve("index.db")
        private val log = folder.resolve("$name.log")

        /** Runs a child to its end; returns how long that took. */
        fun runs(verb: String): Long {
            val child = Child.sync(index, photos, log, verb).apply { awaitReady() }
            val begun = System.nanoTime()
            assertEquals("done", child.ended())
            return (System.nanoTime() - begun) / 1_000_000
        }

        /** Runs a child, kills it after some time, checks everything; returns whether it was killed before its end. */
        fun isKilled(verb: String, millis: Long): Boolean {
            val before = vectors(verb)
            Files.deleteIfExists(log)
            val child = Child.sync(index, photos, log, verb).apply { awaitReady() }
            val said = child.killedAfter(millis)
            val now = vectors(verb)
            val reported = said.mapNotNull { it.toIntOrNull() }.maxOrNull() ?: 0
            assertTrue(now >= reported, "what was reported is lost: $now of $reported")
            assertTrue(now >= before, "what was there is lost: $now of $before")
            val seen = if (Files.exists(log)) Files.size(log) else 0
            assertTrue(seen <= now - before + BATCH, "more than the batch in hand was lost: $seen for ${now - before}")
            assertIndexIsSound(index)
            if ("done" in said) return false
            if (now in 1 until PHOTOS) midway++
            galleryOf(index, HashEmbedder(activeSeed()), photos).use {
                if (it.status().indexed > 0) assertSearchIsExact(it)
            }
            return !isTakenOver(verb)
        }

        /** What the last look must find: all photos once, under the rebuild's model, and no file left over. */
        fun check() {
            galleryOf(index, HashEmbedder(1), photos).use { gallery ->
                assertReused(gallery, 0)
                assertEquals(PHOTOS, gallery.status().indexed)
            }
            val left = Files.list(index.parent).use { files -> files.map { "${it.fileName}" }.toArray().toSet() }
            val allowed = listOf("", ".scan", ".lock", "-wal", "-shm").map { "index.db$it" }
            assertTrue(allowed.containsAll(left), "$left")
        }

        /** Everything of the index that does not depend on the order of kills. */
        fun content(): List<Any?> = listOf(
            rowsOf(index, "SELECT uri, bytes, modified, hex(hash), width, height, reason FROM photo ORDER BY uri"),
            rowsOf(index, "SELECT uri, scale, hex(codes) FROM vector JOIN photo ON photo.id = photo_id ORDER BY uri"),
            rowsOf(index, "SELECT id > 0, fingerprint, name, dim, is_active FROM model"),
            rowsOf(index, "SELECT uri FROM source"),
        )

        private fun vectors(verb: String): Int = if (!hasTables()) {
            0
        } else {
            val fingerprint = HashEmbedder(seedOf(verb)).fingerprint
            val ofModel = "JOIN model ON model.id = model_id WHERE fingerprint = '$fingerprint'"
            (rowsOf(index, "SELECT COUNT(*) FROM vector $ofModel")[0][0] as Number).toInt()
        }

        private fun hasTables() = Files.exists(index) && rowsOf(index, "PRAGMA table_info(vector)").isNotEmpty()

        private fun activeSeed(): Int = if (hasTables() && isTakenOver("rebuild")) 1 else 0

        /** Whether a killed rebuild had done its work but for the scan file. */
        private fun isTakenOver(verb: String): Boolean {
            val active = rowsOf(index, "SELECT fingerprint FROM model WHERE is_active")
            return verb == "rebuild" && active == listOf(listOf<Any?>(HashEmbedder(1).fingerprint))
        }

        private fun seedOf(verb: String) = if (verb == "rebuild") 1 else 0
    }
}
