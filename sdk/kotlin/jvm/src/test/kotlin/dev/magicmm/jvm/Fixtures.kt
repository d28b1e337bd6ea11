package dev.magicmm.jvm

import dev.magicmm.Budget
import dev.magicmm.Changes
import dev.magicmm.ContentHash
import dev.magicmm.ErrorCode
import dev.magicmm.FolderSource
import dev.magicmm.Gallery
import dev.magicmm.MagicError
import dev.magicmm.PhotoEmbedder
import dev.magicmm.PhotoFile
import dev.magicmm.PhotoRef
import dev.magicmm.PhotoSkipped
import dev.magicmm.PhotoSource
import dev.magicmm.PreparedPhoto
import dev.magicmm.Progress
import dev.magicmm.Results
import dev.magicmm.SkipReason
import dev.magicmm.Stamp
import dev.magicmm.quantise
import dev.magicmm.score
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.assertThrows
import org.sqlite.SQLiteConfig
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.attribute.FileTime
import java.util.concurrent.atomic.AtomicInteger
import kotlin.math.abs
import kotlin.math.sqrt

// Photos, a counting model, a source in memory and an independent search, shared by the tests of the gallery.

/**
 * A model that needs no pictures: the vector of a photo follows from its bytes. Bytes that begin with "junk" are no
 * photo. It counts what it has seen, and refuses or delays on demand.
 */
class HashEmbedder(private val seed: Int = 0, override val dim: Int = 32) : PhotoEmbedder {
    override val name: String = "hash-$seed"
    override val fingerprint: String = "%064x".format(seed + 1)
    val count = AtomicInteger()
    var refuses: (ByteArray) -> Boolean = { false }
    var instead: FloatArray? = null

    override fun checkHashes() = Unit

    override fun preparePhoto(data: ByteArray): PreparedPhoto {
        if (data.isEmpty()) throw PhotoSkipped(SkipReason.EMPTY_FILE, "The file is empty.")
        if (String(data).startsWith("junk")) throw PhotoSkipped(SkipReason.NOT_AN_IMAGE, "The content is no photo.")
        return PreparedPhoto(data, 640, 480)
    }

    override fun embedPixels(pixels: List<ByteArray>): List<FloatArray> {
        if (pixels.any(refuses)) throw MagicError(ErrorCode.RUNTIME_FAILED, "The model cannot take this photo.", "")
        count.addAndGet(pixels.size)
        return pixels.map(::vectorOf)
    }

    override fun embedQuery(text: String?, image: ByteArray?, truncate: Boolean): FloatArray =
        vectorOf(image ?: text?.toByteArray() ?: throw MagicError(ErrorCode.ARGUMENT_INVALID, "No query.", ""))

    override fun release() = Unit

    private fun vectorOf(data: ByteArray): FloatArray {
        instead?.let { return it }
        val random = java.util.Random(data.contentHashCode() * 31L + seed)
        val vector = FloatArray(dim) { random.nextGaussian().toFloat() }
        val length = sqrt(vector.sumOf { (it * it).toDouble() }).toFloat()
        return FloatArray(dim) { vector[it] / length }
    }
}

/** A source that is no folder: photos in a map; a reason in place of bytes is a photo that cannot be read. */
class MemorySource(override val uri: String = "phone://camera/") : PhotoSource {
    val photos = LinkedHashMap<String, Any>()
    private val versions = HashMap<String, Long>()
    val loaded = ArrayList<String>()
    var isReachable = true

    fun put(name: String, data: Any): String {
        photos[uri + name] = data
        versions.merge(uri + name, 1, Long::plus)
        return uri + name
    }

    override fun changes(known: Map<String, Stamp>, allKnown: Set<String>): Changes {
        if (!isReachable) return Changes(unavailable = listOf(uri))
        val refs = photos.keys.map { PhotoRef(it, stampOf(it)) }.filter { known[it.uri] != it.stamp }
        val (changed, new) = refs.partition { it.uri in allKnown }
        return Changes(new, changed, (allKnown - photos.keys).sorted())
    }

    override fun load(uri: String): PhotoFile {
        synchronized(loaded) { loaded += uri }
        val data = photos.getValue(uri)
        if (data is SkipReason) throw PhotoSkipped(data, "$uri cannot be read.")
        return PhotoFile(data as ByteArray, stampOf(uri), ContentHash.of(data))
    }

    private fun stampOf(uri: String) = Stamp((photos[uri] as? ByteArray)?.size?.toLong() ?: 0, versions.getValue(uri))
}

fun makePhoto(path: Path, content: String): Path {
    Files.createDirectories(path.parent)
    return Files.write(path, "photo $content".toByteArray())
}

/** Makes photos of different sizes, so that a change shows although clocks are coarse. */
fun makePhotos(folder: Path, count: Int, first: Int = 0): List<Path> =
    (first until first + count).map { makePhoto(folder.resolve("%04d.png".format(it)), "$it" + ".".repeat(it)) }

/** Moves the modification time on. */
fun touch(path: Path) {
    Files.setLastModifiedTime(path, FileTime.fromMillis(Files.getLastModifiedTime(path).toMillis() + 5000))
}

fun galleryOf(index: Path, embedder: PhotoEmbedder, vararg folders: Path): Gallery =
    Gallery.open(embedder, folders.map { FolderSource(it) }, index)

fun codeOf(call: () -> Unit): ErrorCode = assertThrows<MagicError> { call() }.code

/** Asks the index file without the SDK. */
fun rowsOf(index: Path, sql: String): List<List<Any?>> =
    SQLiteConfig().createConnection("jdbc:sqlite:$index").use { connection ->
        connection.createStatement().use { statement ->
            statement.executeQuery(sql).use { rows ->
                val width = rows.metaData.columnCount
                generateSequence { if (rows.next()) List(width) { rows.getObject(it + 1) } else null }.toList()
            }
        }
    }

fun execute(index: Path, sql: String) {
    SQLiteConfig().createConnection("jdbc:sqlite:$index").use { connection ->
        connection.createStatement().use { it.execute(sql) }
    }
}

fun answersOf(results: Results): List<Pair<Long, Float>> = results.matches.map { it.id to it.score }

/** Compares a search with one that looks at every row of the file. */
fun assertSearchIsExact(gallery: Gallery, text: String = "red") {
    val query = quantise(gallery.embedder.embedQuery(text, null, false))
    val expected = rowsOf(
        gallery.indexPath,
        "SELECT photo_id, scale, codes FROM vector JOIN model ON model.id = model_id WHERE is_active = 1",
    ).map { (id, scale, codes) ->
        val dot = query.codes.indices.sumOf { query.codes[it] * (codes as ByteArray)[it] }
        (id as Number).toLong() to score(dot, query.scale, (scale as Double).toFloat())
    }.sortedWith(compareByDescending<Pair<Long, Float>> { it.second }.thenBy { it.first })
    assertEquals(expected, answersOf(gallery.search(text, k = 10_000)))
}

/** Checks what must hold at any moment: a sound file, one row a URI, one vector of unit length a photo. */
fun assertIndexIsSound(index: Path) {
    assertEquals(listOf(listOf("ok")), rowsOf(index, "PRAGMA integrity_check"))
    val none = listOf(
        "PRAGMA foreign_key_check",
        "SELECT uri FROM photo GROUP BY uri HAVING COUNT(*) > 1",
        "SELECT 1 FROM vector GROUP BY photo_id, model_id HAVING COUNT(*) > 1",
        "SELECT 1 FROM vector JOIN photo ON photo.id = photo_id WHERE reason IS NOT NULL",
    )
    for (query in none) assertEquals(emptyList<Any>(), rowsOf(index, query), query)
    for ((scale, codes) in rowsOf(index, "SELECT scale, codes FROM vector")) {
        val squares = (codes as ByteArray).sumOf { it * it }
        assertTrue(abs(sqrt(squares.toDouble()) * (scale as Double) - 1) < 1e-6)
    }
}

/** Syncs and checks that the model saw nothing. */
fun assertReused(gallery: Gallery, reused: Int, removed: Int = 0) {
    val embedder = gallery.embedder as HashEmbedder
    val before = embedder.count.get()
    val last: Progress = gallery.sync(Budget())
    assertEquals(listOf(0, reused, removed, 0), last.run { listOf(embedded, this.reused, this.removed, skipped) })
    assertEquals(before, embedder.count.get())
    assertIndexIsSound(gallery.indexPath)
    assertSearchIsExact(gallery)
}
