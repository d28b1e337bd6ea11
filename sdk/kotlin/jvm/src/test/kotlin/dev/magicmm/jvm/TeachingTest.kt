package dev.magicmm.jvm

import dev.magicmm.Concept
import dev.magicmm.ErrorCode
import dev.magicmm.Gallery
import dev.magicmm.pathUri
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Files
import java.nio.file.Path

/** Names taught by photos: all of a lesson is stored or nothing, and a change of the model renews or retires it. */
class TeachingTest {
    @TempDir
    lateinit var folder: Path
    private lateinit var photos: Path
    private lateinit var gallery: Gallery
    private val path get() = folder.resolve("index.db")

    @BeforeEach
    fun index() {
        photos = folder.resolve("photos")
        makePhotos(photos, 10)
        gallery = galleryOf(path, HashEmbedder(), photos)
        gallery.sync()
    }

    @AfterEach
    fun close() = gallery.close()

    @Test
    fun `a name finds its photos`() {
        assertEquals(emptyList<Concept>(), gallery.taught())
        val taught = gallery.teach("  our  Dog ", photoIds = listOf(idOf(3)), noun = "a dog")
        assertEquals(Concept("our Dog", "a dog", 1, 0, listOf(pathUri(photo(3)))), taught)
        assertEquals(listOf(taught), gallery.taught())
        val found = gallery.search("photos of OUR DOG", k = 1)
        assertEquals(listOf(idOf(3)), found.matches.map { it.id })
        assertEquals(listOf("our Dog"), found.taught)
        assertEquals(listOf("our Dog"), gallery.search("our dog on the beach", image = bytes(4)).taught)
    }

    @Test
    fun `a text that names nothing gives the same answer as before`() {
        val before = gallery.search("our dog")
        gallery.teach("our dog", photoIds = listOf(idOf(3)))
        assertEquals(before, gallery.search("our dog", taught = false))
        assertSearchIsExact(gallery, "the dog")
    }

    @Test
    fun `photos add up until a name is taught anew`() {
        val embedder = gallery.embedder as HashEmbedder
        val before = embedder.count.get()
        gallery.teach("Momo", listOf(bytes(1)), listOf(idOf(2)), noun = "a dog")
        assertEquals(before, embedder.count.get()) // their content is known
        assertEquals(4, gallery.teach("MOMO", listOf("photo new".toByteArray(), "photo newer".toByteArray())).examples)
        assertEquals(before + 2, embedder.count.get())
        assertEquals("a dog", gallery.taught().single().noun)
        val anew = gallery.teach("Momo", photoIds = listOf(idOf(1)), replace = true)
        assertEquals(Concept("Momo", null, 1, 0, listOf(pathUri(photo(1)))), anew)
        gallery.forget("momo")
        assertEquals(emptyList<Concept>(), gallery.taught())
        assertEquals(ErrorCode.ARGUMENT_INVALID, codeOf { gallery.forget("momo") })
    }

    @Test
    fun `nothing is taught when a part of a lesson is no good`() {
        val good = listOf(idOf(1))
        val invalid = ErrorCode.ARGUMENT_INVALID
        assertEquals(ErrorCode.IMAGE_INVALID, codeOf { gallery.teach("Momo", listOf("junk".toByteArray()), good) })
        assertEquals(invalid, codeOf { gallery.teach("Momo", photoIds = good + 999) })
        assertEquals(invalid, codeOf { gallery.teach("Momo") })
        for (name in listOf("", "!?", "the", "photos of", "a/b", "a\\b", "x\u0007y", "n".repeat(101))) {
            assertEquals(invalid, codeOf { gallery.teach(name, photoIds = good) }, name)
        }
        assertTrue(rowsOf(path, "SELECT 1 FROM sqlite_master WHERE name = 'concept'").isEmpty())
    }

    @Test
    fun `a rebuild renews what it finds, and a later sync the rest`() {
        val elsewhere = "photo elsewhere".toByteArray()
        gallery.teach("Momo", listOf(elsewhere), listOf(idOf(5)))
        galleryOf(path, HashEmbedder(seed = 1), photos).use { other ->
            other.rebuild()
            assertEquals(listOf(1, 1), other.taught().single().run { listOf(examples, stale) })
            assertEquals(listOf(idOf(5)), other.search("Momo", k = 1).matches.map { it.id })
            Files.write(photos.resolve("late.png"), elsewhere)
            other.sync()
            assertEquals(listOf(2, 0), other.taught().single().run { listOf(examples, stale) })
        }
        assertIndexIsSound(path)
    }

    @Test
    fun `rows that make no sense are index_corrupt`() {
        gallery.teach("Momo", photoIds = listOf(idOf(1)))
        execute(path, "UPDATE example SET codes = x'01'")
        assertEquals(ErrorCode.INDEX_CORRUPT, codeOf { gallery.search("Momo") })
        execute(path, "UPDATE example SET codes = 'text'")
        assertEquals(ErrorCode.INDEX_CORRUPT, codeOf { gallery.taught() })
    }

    private fun photo(number: Int): Path = photos.resolve("%04d.png".format(number))

    private fun bytes(number: Int): ByteArray = Files.readAllBytes(photo(number))

    private fun idOf(number: Int): Long = gallery.photoId(pathUri(photo(number)))!!
}
