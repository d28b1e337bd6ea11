package dev.magicmm.jvm

import dev.magicmm.ContentHash
import dev.magicmm.ErrorCode
import dev.magicmm.Filter
import dev.magicmm.Gallery
import dev.magicmm.Index
import dev.magicmm.MagicError
import dev.magicmm.PhotoFacts
import dev.magicmm.Results
import dev.magicmm.Stamp
import dev.magicmm.countPhotos
import dev.magicmm.countVectors
import dev.magicmm.photoFacts
import dev.magicmm.photoId
import dev.magicmm.putPhoto
import dev.magicmm.putVector
import dev.magicmm.quantise
import dev.magicmm.removePhotos
import dev.magicmm.removedSeqs
import dev.magicmm.vectorOf
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import org.junit.jupiter.params.ParameterizedTest
import org.junit.jupiter.params.provider.MethodSource
import java.nio.file.Files
import java.nio.file.Path
import java.util.concurrent.CountDownLatch
import java.util.concurrent.atomic.AtomicReference

/** The rows: transactions, snapshots, and values of the wrong kind, which a damaged file may hold. */
class IndexTest {
    @TempDir
    lateinit var folder: Path
    private val path get() = folder.resolve("i.db")
    private val facts =
        PhotoFacts("file:///p/a.jpg", Stamp(10, 20), ContentHash(ByteArray(16) { 7 }), 1.5, -2.5, 3.5, 640, 480)

    private fun index() = Index(path, SqliteJdbc, create = true)

    @Test
    fun `what is written is read back`() = index().use { index ->
        val id = index.transaction { index.putPhoto(facts, null) }
        assertEquals(facts, index.photoFacts(id))
        assertEquals(id, index.photoId(facts.uri))
        assertNull(index.photoFacts(id + 1))
        assertNull(index.photoId("file:///other"))
    }

    @Test
    fun `a failed transaction leaves nothing`() = index().use { index ->
        assertThrows(IllegalStateException::class.java) {
            index.transaction<Unit> {
                index.putPhoto(facts, null)
                error("failed")
            }
        }
        assertEquals(0, index.countPhotos())
        index.transaction { index.putPhoto(facts, null) }
        assertEquals(1, index.countPhotos())
    }

    @Test
    fun `a snapshot sees one state, nested or not`() = index().use { index ->
        Index(path, SqliteJdbc).use { writer ->
            index.snapshot {
                assertEquals(0, index.countPhotos())
                index.snapshot {
                    writer.transaction { writer.putPhoto(facts, null) }
                    assertEquals(0, index.countPhotos())
                }
                assertEquals(0, index.countPhotos())
            }
            assertEquals(1, index.countPhotos())
        }
    }

    @Test
    fun `a writer that reads first waits for another one`() = index().use { index ->
        val begun = CountDownLatch(1)
        val problem = AtomicReference<Throwable>()
        val thread = Thread {
            try {
                Index(path, SqliteJdbc).use { other ->
                    begun.countDown()
                    other.transaction {
                        other.countPhotos()
                        other.putPhoto(facts.copy(uri = "file:///p/b.jpg"), null)
                    }
                }
            } catch (error: Throwable) {
                problem.set(error)
            }
        }
        index.transaction {
            index.putPhoto(facts, null)
            thread.start()
            begun.await()
            thread.join(200) // give it the time to run into the lock
            assertTrue(thread.isAlive)
        }
        thread.join(30_000)
        assertNull(problem.get())
        assertEquals(2, index.countPhotos())
    }

    @Test
    fun `a vector is replaced and its old number remembered`() = index().use { index ->
        val vectors = List(2) { row -> quantise(FloatArray(4) { if (it == row) 1f else 0f }) }
        index.transaction {
            val model = index.addModel("ab".repeat(32), "m", 4, true)
            val id = index.putPhoto(facts, null)
            vectors.forEach { index.putVector(id, model, it) }
        }
        val model = index.activeModel()!!
        assertEquals(1, index.countVectors(model))
        assertArrayEquals(longArrayOf(1), index.removedSeqs())
        assertArrayEquals(vectors[1].codes, index.vectorOf(1, model)!!.codes)
        index.transaction { index.removePhotos(listOf(facts.uri)) }
        assertArrayEquals(longArrayOf(1, 2), index.removedSeqs()) // a cascade runs the trigger too
    }

    @Test
    fun `a removed photo leaves no trace in the file`() {
        val secret = "file:///p/a-very-secret-name.jpg"
        index().use { index ->
            index.transaction { index.putPhoto(facts, null) }
            index.transaction { index.putPhoto(facts.copy(uri = secret), null) }
            index.transaction { index.removePhotos(listOf(secret)) }
        }
        assertFalse("a-very-secret-name" in String(Files.readAllBytes(path), Charsets.ISO_8859_1))
    }

    @ParameterizedTest
    @MethodSource("damages")
    fun `values of the wrong kind are damage and never a crash`(damage: String) {
        for (keepScanFile in listOf(true, false)) {
            val library = Files.createTempDirectory(folder, "library")
            val index = library.resolve("index.db")
            makePhotos(library.resolve("photos"), 5)
            Files.write(library.resolve("photos/junk.jpg"), "junk".toByteArray())
            galleryOf(index, HashEmbedder(), library.resolve("photos")).use { it.sync() }
            execute(index, damage)
            if (!keepScanFile) Files.delete(library.resolve("index.db.scan"))
            val codes = HashSet<ErrorCode>()
            galleryOf(index, HashEmbedder(), library.resolve("photos")).use { gallery ->
                for (call in calls(gallery)) {
                    try {
                        call()
                    } catch (error: MagicError) {
                        codes += error.code
                    }
                }
            }
            assertTrue(ALLOWED.containsAll(codes), "$codes")
        }
    }

    private fun calls(gallery: Gallery): List<() -> Unit> = listOf(
        { gallery.status() },
        { gallery.plan() },
        { assertFinite(gallery.search("red")) },
        { assertFinite(gallery.search("red", where = Filter(minSide = 1, ids = (0L..100).toList()))) },
        { assertFinite(gallery.similar(1)) },
        { gallery.duplicates() },
        { gallery.duplicates(0.5) },
        { gallery.sync() },
        { assertFinite(gallery.search("red")) },
    )

    private fun assertFinite(results: Results) {
        val scores = results.matches.map { it.score }
        assertTrue(scores.all { it.isFinite() })
        assertEquals(scores.sortedDescending(), scores)
    }

    companion object {
        private val ALLOWED = setOf(
            ErrorCode.INDEX_CORRUPT,
            ErrorCode.SOURCE_UNAVAILABLE,
            ErrorCode.MODEL_MISMATCH,
            ErrorCode.ARGUMENT_INVALID,
        )

        @JvmStatic
        fun damages(): List<String> = listOf(
            "UPDATE vector SET codes = x'00'",
            "UPDATE vector SET codes = 'text'",
            "UPDATE vector SET scale = 'text'",
            "UPDATE vector SET scale = -1.0",
            "UPDATE vector SET scale = 9e999",
            "UPDATE vector SET scale = 1e300",
            "UPDATE vector SET photo_id = 'text' WHERE seq = 2",
            "UPDATE photo SET uri = x'ff' || id",
            "UPDATE photo SET uri = CAST(x'ff' AS TEXT) || id",
            "UPDATE photo SET width = 'wide'",
            "UPDATE photo SET height = x'00'",
            "UPDATE photo SET taken = 'yesterday'",
            "UPDATE photo SET bytes = 'many', modified = x'00'",
            "UPDATE photo SET hash = 'text'",
            "UPDATE photo SET hash = NULL",
            "UPDATE photo SET reason = 'unheard_of'",
            "UPDATE photo SET reason = x'01'",
            "UPDATE photo SET reason = 5",
            "UPDATE model SET dim = 'wide'",
            "UPDATE model SET dim = -8",
            "UPDATE model SET dim = 9223372036854775807",
            "UPDATE model SET dim = 16",
            "UPDATE model SET fingerprint = 'short'",
            "UPDATE model SET fingerprint = x'00'",
            "UPDATE model SET is_active = 'perhaps'",
            "UPDATE meta SET value = '-5' WHERE key = 'generation'",
            "UPDATE meta SET value = '99999999999999999999' WHERE key = 'generation'",
            "UPDATE meta SET value = 'x' WHERE key = 'compacted'",
            "UPDATE meta SET value = x'ffff' WHERE key = 'index_id'",
            "UPDATE meta SET value = 'fast' WHERE key = 'photos_per_second'",
            "UPDATE source SET uri = x'00'",
            "UPDATE source SET uri = ''",
            "UPDATE source SET uri = 'file:///%'",
            "DELETE FROM meta",
            "DELETE FROM source",
            "DELETE FROM photo WHERE id = 2",
            "INSERT INTO removed (seq) VALUES (1), (9999999)",
            "DROP TABLE removed",
            "DROP TABLE vector",
            "DROP TABLE meta",
            "ALTER TABLE photo RENAME COLUMN taken TO shot",
        )
    }
}
