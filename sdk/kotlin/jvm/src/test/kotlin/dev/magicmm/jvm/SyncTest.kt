package dev.magicmm.jvm

import dev.magicmm.Budget
import dev.magicmm.Cancellation
import dev.magicmm.ErrorCode
import dev.magicmm.FolderSource
import dev.magicmm.Gallery
import dev.magicmm.Progress
import dev.magicmm.SkipReason
import dev.magicmm.pathUri
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.Paths

/** What a sync does with every kind of change; 'no re-embedding' is proven by counting what the model saw. */
class SyncTest {
    @TempDir
    lateinit var folder: Path
    private val model = HashEmbedder()
    private lateinit var photos: Path
    private lateinit var gallery: Gallery

    @BeforeEach
    fun index() {
        photos = folder.resolve("photos")
        makePhotos(photos, 6)
        gallery = galleryOf(folder.resolve("index.db"), model, photos)
        gallery.sync()
    }

    @AfterEach
    fun close() = gallery.close()

    private fun ids(): Map<String, Long> = rowsOf(gallery.indexPath, "SELECT uri, id FROM photo")
        .associate { (uri, id) -> uri as String to (id as Number).toLong() }

    private fun photo(name: String): Path = photos.resolve(name)

    private fun move(from: Path, to: Path) {
        Files.createDirectories(to.parent)
        Files.move(from, to)
    }

    @Test
    fun `the first sync embeds every photo once and the second nothing`() {
        assertEquals(6, model.count.get())
        assertEquals(6, gallery.status().indexed)
        assertReused(gallery, 0)
    }

    @Test
    fun `an edited photo is embedded anew and keeps its id`() {
        val before = ids()
        makePhoto(photo("0002.png"), "edited, longer")
        val last = gallery.sync()
        assertEquals(listOf(1, 1, 0), last.run { listOf(embedded, total, removed) })
        assertEquals(before, ids())
        assertSearchIsExact(gallery)
    }

    @Test
    fun `touched photos are not embedded again nor looked at twice`() {
        Files.list(photos).forEach(::touch)
        assertReused(gallery, 6)
        assertEquals(0, gallery.sync().total)
    }

    @Test
    fun `renamed photos and moved folders keep ids and vectors`() {
        val facts = "SELECT photo.id, hex(hash), seq FROM photo JOIN vector ON photo.id = photo_id ORDER BY 1"
        val before = rowsOf(gallery.indexPath, facts)
        move(photo("0003.png"), photo("holiday.png"))
        assertReused(gallery, 1)
        for (path in Files.list(photos).toArray().map { it as Path }) move(path, photo("2024/may/${path.fileName}"))
        assertReused(gallery, 6)
        assertEquals(before, rowsOf(gallery.indexPath, facts))
        assertTrue(pathUri(photo("2024/may/holiday.png")) in ids())
    }

    @Test
    fun `copies are photos of their own with the same vector`() {
        Files.copy(photo("0000.png"), photo("copy.png"))
        assertReused(gallery, 1)
        assertEquals(7, ids().size)
        assertEquals(listOf(2), gallery.duplicates().map { it.photos.size })
    }

    @Test
    fun `photos that swap names or are renumbered are not embedded again`() {
        move(photo("0000.png"), photo("t"))
        move(photo("0001.png"), photo("0000.png"))
        move(photo("t"), photo("0001.png"))
        assertReused(gallery, 2)
        for (number in 5 downTo 0) move(photo("%04d.png".format(number)), photo("%04d.png".format(number + 1)))
        assertReused(gallery, 6, removed = 1)
    }

    @Test
    fun `every photo may trade places with another, in a batch of their own`() {
        val many = makePhotos(photo("many"), 700)
        gallery.sync()
        val contents = many.map { Files.readAllBytes(it) }
        many.forEachIndexed { place, path ->
            Files.write(path, contents[(place * 37 + 11) % 700])
            touch(path)
        }
        val before = model.count.get()
        assertEquals(700, gallery.sync().reused)
        assertEquals(before, model.count.get())
        assertSearchIsExact(gallery)
    }

    @Test
    fun `a deleted photo leaves nothing behind and its id is never given again`() {
        val most = ids().values.maxOrNull()!!
        val last = ids().entries.first { it.value == most }.key
        Files.delete(Paths.get(java.net.URI(last)))
        assertEquals(1, gallery.sync().removed)
        assertEquals(listOf(listOf<Any>(5)), rowsOf(gallery.indexPath, "SELECT COUNT(*) FROM vector"))
        makePhoto(photo("new.png"), "new")
        gallery.sync()
        assertTrue(ids().getValue(pathUri(photo("new.png"))) > most)
        assertSearchIsExact(gallery)
    }

    @Test
    fun `a root that vanishes or is suddenly empty keeps its photos`() {
        move(photos, folder.resolve("away"))
        repeat(2) {
            // first missing, then an empty mount point
            val last = gallery.sync()
            assertEquals(0, last.removed)
            assertEquals(listOf(FolderSource(photos).uri), last.unavailable)
            assertEquals(6, gallery.search("red").matches.size)
            Files.createDirectories(photos)
        }
        Files.delete(photos)
        move(folder.resolve("away"), photos)
        assertReused(gallery, 0)
    }

    @Test
    fun `lasting reasons are kept and not tried again until the file changes`() {
        Files.write(photo("junk.jpg"), "junk".toByteArray())
        Files.createFile(photo("empty.jpg"))
        assertEquals(2, gallery.sync().skipped)
        val reasons = gallery.status().skipped.map { it.reason }
        assertEquals(listOf(SkipReason.EMPTY_FILE, SkipReason.NOT_AN_IMAGE), reasons)
        assertEquals(0, gallery.sync().total)
        makePhoto(photo("junk.jpg"), "now a photo")
        assertEquals(1, gallery.sync().embedded)
    }

    @Test
    fun `passing reasons are tried again by every sync, lasting ones once`() {
        for (reason in SkipReason.values()) {
            val source = MemorySource("phone://${reason.value}/")
            val uri = source.put("a.jpg", reason)
            Gallery.open(HashEmbedder(), listOf(source), folder.resolve("${reason.value}.db")).use { other ->
                repeat(3) { other.sync() }
                assertEquals(listOf(uri to reason), other.status().skipped.map { it.uri to it.reason })
                assertEquals(if (reason.isTransient) 3 else 1, source.loaded.size, reason.value)
                source.put("a.jpg", "photo".toByteArray())
                assertEquals(1, other.sync().embedded)
                assertEquals(0, other.status().skipped.size)
            }
        }
    }

    @Test
    fun `a broken link and a pipe do not stop a sync`() {
        Files.createSymbolicLink(photo("broken.jpg"), Paths.get("nowhere"))
        ProcessBuilder("mkfifo", photo("pipe.jpg").toString()).start().waitFor()
        assertEquals(1, gallery.sync().skipped)
        assertEquals(listOf(SkipReason.BROKEN_LINK), gallery.status().skipped.map { it.reason })
    }

    @Test
    fun `a photo that the model refuses is skipped alone and tried again`() {
        makePhotos(photos, 8, first = 20)
        makePhoto(photo("red.png"), "red")
        model.refuses = { String(it) == "photo red" }
        assertEquals(listOf(8, 1), gallery.sync().run { listOf(embedded, skipped) })
        model.refuses = { false }
        assertEquals(1, gallery.sync().embedded)
    }

    @Test
    fun `a model that fails on everything ends the sync`() {
        makePhotos(photos, 3, first = 20)
        model.refuses = { true }
        assertEquals(ErrorCode.RUNTIME_FAILED, codeOf { gallery.sync() })
        assertEquals(6, gallery.status().indexed)
    }

    @Test
    fun `vectors that are none never enter the index`() {
        val odd = listOf(FloatArray(31), FloatArray(33), FloatArray(32), FloatArray(32) { Float.NaN })
        for ((place, vector) in odd.withIndex()) {
            makePhoto(photo("odd.png"), "odd" + "!".repeat(place))
            model.instead = vector
            assertEquals(1, gallery.sync().skipped)
            assertEquals(ErrorCode.RUNTIME_FAILED, codeOf { gallery.search("red") })
            model.instead = null
            assertIndexIsSound(gallery.indexPath)
        }
        assertEquals(1, gallery.sync().embedded)
    }

    @Test
    fun `a budget is kept and the next sync goes on`() {
        makePhotos(photos, 60, first = 100)
        assertEquals(25, gallery.sync(Budget(files = 25)).done)
        assertEquals(31, gallery.status().indexed)
        assertEquals(16, gallery.sync(Budget(seconds = 0.0)).done)
        assertEquals(0, gallery.sync().run { total - done })
        assertEquals(66, gallery.status().indexed)
        assertEquals(66, model.count.get())
    }

    @Test
    fun `a cancelled sync keeps what it reported and goes on later`() {
        makePhotos(photos, 100, first = 100)
        val cancellation = Cancellation()
        val events = ArrayList<Progress>()
        val code = codeOf {
            gallery.sync(cancellation = cancellation) {
                events += it
                if (it.done >= 32) cancellation.cancel()
            }
        }
        assertEquals(ErrorCode.CANCELLED, code)
        assertEquals(6 + events.last().done, gallery.status().indexed)
        assertIndexIsSound(gallery.indexPath)
        gallery.sync()
        assertEquals(106, gallery.status().indexed)
        assertEquals(106, model.count.get())
    }

    @Test
    fun `an interrupted sync is a cancelled one`() {
        makePhotos(photos, 50, first = 100)
        Thread.currentThread().interrupt()
        assertEquals(ErrorCode.CANCELLED, codeOf { gallery.sync() })
        assertTrue(Thread.interrupted())
        gallery.sync()
        assertEquals(56, gallery.status().indexed)
        assertIndexIsSound(gallery.indexPath)
    }

    @Test
    fun `an error of the listener ends the sync and frees the lock`() {
        makePhotos(photos, 40, first = 100)
        assertThrows(IllegalStateException::class.java) { gallery.sync { if (it.done > 0) error("enough") } }
        gallery.sync()
        assertEquals(46, gallery.status().indexed)
    }

    @Test
    fun `events count up and are on disk when they arrive`() {
        makePhotos(photos, 40, first = 100)
        var last = -1
        gallery.sync {
            assertTrue(it.done >= last)
            last = it.done
            assertEquals(listOf(listOf<Any>(6 + it.embedded)), rowsOf(gallery.indexPath, "SELECT COUNT(*) FROM vector"))
        }
        assertEquals(40, last)
    }
}
