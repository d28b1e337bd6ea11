package dev.magicmm.jvm

import dev.magicmm.ErrorCode
import dev.magicmm.Filter
import dev.magicmm.Gallery
import dev.magicmm.Index
import dev.magicmm.pathUri
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Files
import java.nio.file.Path
import java.util.concurrent.CopyOnWriteArrayList

/** Asking: exact whatever happened before, during a sync, and while a rebuild runs beside. */
class GalleryTest {
    @TempDir
    lateinit var folder: Path
    private lateinit var photos: Path
    private lateinit var gallery: Gallery
    private val path get() = folder.resolve("index.db")

    @BeforeEach
    fun index() {
        photos = folder.resolve("photos")
        makePhotos(photos, 40)
        gallery = galleryOf(path, HashEmbedder(), photos)
        gallery.sync()
    }

    @AfterEach
    fun close() = gallery.close()

    @Test
    fun `k asked is k given`() {
        for (k in listOf(1, 7, 40, 41, 1000)) {
            val found = gallery.search("red", k = k)
            assertEquals(minOf(k, 40), found.matches.size)
            assertEquals(40, found.searched)
        }
        assertSearchIsExact(gallery)
        for (k in listOf(0, -1, 1_000_001)) {
            assertEquals(ErrorCode.ARGUMENT_INVALID, codeOf { gallery.search("red", k = k) })
            assertEquals(ErrorCode.ARGUMENT_INVALID, codeOf { gallery.similar(1, k = k) })
        }
    }

    @Test
    fun `filters apply before the k best are taken`() {
        val everything = gallery.search("red", k = 100).matches
        val worst = everything.takeLast(5)
        val found = gallery.search("red", k = 3, where = Filter(ids = worst.map { it.id }))
        assertEquals(worst.take(3), found.matches)
        assertEquals(5, found.searched)
        assertEquals(0, gallery.search("red", where = Filter(ids = listOf(1L shl 40, Long.MAX_VALUE))).matches.size)
        val least = everything[10].score.toDouble()
        assertEquals(everything.take(11), gallery.search("red", k = 100, minScore = least).matches)
    }

    @Test
    fun `similar leaves out the photo itself and nothing else`() {
        val id = gallery.photoId(pathUri(photos.resolve("0003.png")))!!
        val by = gallery.search(image = Files.readAllBytes(photos.resolve("0003.png")), k = 40)
        val found = gallery.similar(id, k = 39)
        assertEquals(by.matches.filter { it.id != id }, found.matches)
        assertEquals(39, found.searched)
        assertEquals(ErrorCode.ARGUMENT_INVALID, codeOf { gallery.similar(9999) })
    }

    @Test
    fun `look-alikes are joined, ids ascending, larger groups first`() {
        for (copy in listOf("a", "b", "c")) Files.copy(photos.resolve("0007.png"), photos.resolve("7$copy.png"))
        Files.copy(photos.resolve("0009.png"), photos.resolve("9.png"))
        gallery.sync()
        val bytes = gallery.duplicates()
        val looks = gallery.duplicates(0.999)
        assertEquals(listOf(4, 2), looks.map { it.photos.size })
        val (idsByBytes, idsByLooks) = listOf(bytes, looks).map { groups ->
            groups.map { group -> group.photos.map { it.id } }
        }
        assertEquals(idsByBytes.toSet(), idsByLooks.toSet())
        assertTrue(looks.all { group -> group.kind == "look_alike" && group.photos.all { it.score > 0.999 } })
        assertEquals(listOf(44), gallery.duplicates(-1.0).map { it.photos.size })
    }

    @Test
    fun `searches in other threads see every state of a sync whole`() {
        makePhotos(photos, 200, first = 100)
        val problems = CopyOnWriteArrayList<Throwable>()
        val isDone = java.util.concurrent.atomic.AtomicBoolean()
        val searchers = List(3) {
            Thread {
                var last = 0
                while (!isDone.get()) {
                    try {
                        val found = gallery.search("red", k = 1000)
                        check(found.matches.size == found.searched && found.searched >= last)
                        last = found.searched
                    } catch (error: Throwable) {
                        problems += error
                    }
                }
            }.apply { start() }
        }
        gallery.sync()
        isDone.set(true)
        searchers.forEach(Thread::join)
        assertEquals(emptyList<Throwable>(), problems)
        assertSearchIsExact(gallery)
    }

    @Test
    fun `another model is refused until a rebuild, which leaves the old vectors answering`() {
        galleryOf(path, HashEmbedder(seed = 1), photos).use { other ->
            assertEquals(ErrorCode.MODEL_MISMATCH, codeOf { other.search("red") })
            assertEquals(ErrorCode.MODEL_MISMATCH, codeOf { other.sync() })
            other.rebuild(dev.magicmm.Budget(files = 10))
            assertEquals("hash-1" to 10, other.status().run { rebuilding to rebuilt })
            assertSearchIsExact(gallery)
            other.rebuild()
            assertSearchIsExact(other)
            assertEquals(40, (other.embedder as HashEmbedder).count.get())
            assertEquals(ErrorCode.MODEL_MISMATCH, codeOf { gallery.search("red") })
        }
    }

    @Test
    fun `a rebuild that cannot reach all photos keeps the old vectors`() {
        Files.move(photos, folder.resolve("away"))
        galleryOf(path, HashEmbedder(seed = 1), photos).use { other ->
            assertEquals(ErrorCode.SOURCE_UNAVAILABLE, codeOf { other.rebuild() })
        }
        assertSearchIsExact(gallery)
    }

    @Test
    fun `a plan says what a sync then does`() {
        makePhotos(photos, 3, first = 50)
        makePhoto(photos.resolve("0000.png"), "changed")
        Files.delete(photos.resolve("0001.png"))
        val plan = gallery.plan()
        assertEquals(listOf(3, 1, 1, 38), plan.run { listOf(new, changed, removed, unchanged) })
        assertTrue(plan.seconds!! > 0)
        assertEquals(listOf(4, 1), gallery.sync().run { listOf(embedded, removed) })
    }

    @Test
    fun `a forgotten source is gone with its photos`() {
        assertEquals(ErrorCode.ARGUMENT_INVALID, codeOf { gallery.forget("file:///other/") })
        gallery.forget(gallery.status().sources.single())
        assertEquals(0, gallery.status().indexed)
        assertEquals(0, gallery.search("red").matches.size)
    }

    @Test
    fun `without an index or photos there is nothing to search`() {
        assertEquals(ErrorCode.SOURCE_UNAVAILABLE, codeOf { galleryOf(folder.resolve("none.db"), HashEmbedder()) })
        galleryOf(folder.resolve("new.db"), HashEmbedder(), photos).use { fresh ->
            assertEquals(ErrorCode.SOURCE_UNAVAILABLE, codeOf { fresh.search("red") })
            assertNull(fresh.photoId("file:///x"))
        }
        val source = MemorySource("phone://camera")
        assertEquals(ErrorCode.ARGUMENT_INVALID, codeOf { Gallery.open(HashEmbedder(), listOf(source), path) })
    }

    @Test
    fun `a closed gallery says so`() {
        gallery.close()
        assertEquals(ErrorCode.ARGUMENT_INVALID, codeOf { gallery.status() })
    }

    @Test
    fun `one writer at a time, in this process and in others`() {
        makePhotos(photos, 20, first = 60)
        gallery.sync {
            if (it.done == 0) {
                galleryOf(path, HashEmbedder()).use { assertEquals(ErrorCode.INDEX_LOCKED, codeOf { it.sync() }) }
                assertEquals(ErrorCode.INDEX_LOCKED.value, Child.sync(path, photos).ended())
            }
        }
        assertEquals("done", Child.sync(path, photos).ended())
    }

    @Test
    fun `the index can be looked at without a model`() {
        Index(path, SqliteJdbc).use { assertEquals(emptyList<String>(), it.checkIntegrity()) }
    }
}
