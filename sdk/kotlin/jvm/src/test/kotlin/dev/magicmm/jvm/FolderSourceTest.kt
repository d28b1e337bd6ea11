package dev.magicmm.jvm

import dev.magicmm.ErrorCode
import dev.magicmm.FolderSource
import dev.magicmm.PhotoSkipped
import dev.magicmm.SkipReason
import dev.magicmm.Stamp
import dev.magicmm.pathUri
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.Paths

class FolderSourceTest {
    @TempDir
    lateinit var folder: Path

    private fun names(source: FolderSource = FolderSource(folder)): List<String> =
        source.changes(emptyMap(), emptySet()).new.map { it.uri.removePrefix(source.uri) }

    @Test
    fun `photos come folder by folder, by their names' bytes`() {
        for (name in listOf("b.jpg", "a.PNG", "Z.jpeg", "é.gif", "d/x.webp", "c/e/y.heic", "c/a.tif")) {
            makePhoto(folder.resolve(name), name)
        }
        assertEquals(listOf("Z.jpeg", "a.PNG", "b.jpg", "%C3%A9.gif", "c/a.tif", "c/e/y.heic", "d/x.webp"), names())
    }

    @Test
    fun `hidden files, other files and links to folders are left out, links to photos are not`() {
        for (name in listOf("a.jpg", ".b.jpg", ".hidden/c.jpg", "notes.txt", "jpg", "folder.jpg/d.png")) {
            makePhoto(folder.resolve(name), name)
        }
        Files.createSymbolicLink(folder.resolve("loop"), folder)
        Files.createSymbolicLink(folder.resolve("loop.jpg"), folder)
        Files.createSymbolicLink(folder.resolve("link.jpg"), folder.resolve("a.jpg"))
        assertEquals(listOf("a.jpg", "link.jpg", "folder.jpg/d.png"), names())
    }

    @Test
    fun `changes are told by the stamp`() {
        val source = FolderSource(folder)
        makePhotos(folder, 4)
        val known = source.changes(emptyMap(), emptySet()).new.associate { it.uri to it.stamp }
        val other = known.keys.first()
        val gone = source.uri + "gone.jpg"
        val found = source.changes(known + (other to Stamp(1, 1)), known.keys + gone)
        assertEquals(listOf(other), found.changed.map { it.uri })
        assertEquals(listOf(gone), found.removed)
        assertEquals(3, found.unchanged)
    }

    @Test
    fun `what cannot be looked at is unavailable and nothing below it is removed`() {
        val source = FolderSource(folder.resolve("away"))
        val photo = source.uri + "a.jpg"
        val found = source.changes(mapOf(photo to Stamp(1, 1)), setOf(photo))
        assertEquals(listOf(source.uri) to emptyList<String>(), found.unavailable to found.removed)
    }

    @Test
    fun `a photo is loaded with its stamp and hash, or says why not`() {
        val source = FolderSource(folder)
        val path = makePhoto(folder.resolve("a.jpg"), "a")
        val file = source.load(pathUri(path))
        assertEquals(Files.size(path), file.stamp.bytes)
        assertTrue(file.hash.toString().length == 32)
        Files.createSymbolicLink(folder.resolve("b.jpg"), Paths.get("nowhere"))
        val reasons =
            listOf("b.jpg" to SkipReason.BROKEN_LINK, "c.jpg" to SkipReason.VANISHED, "" to SkipReason.READ_FAILED)
        for ((name, reason) in reasons) {
            assertEquals(reason, assertThrows<PhotoSkipped> { source.load(source.uri + name) }.reason)
        }
        assertEquals(ErrorCode.ARGUMENT_INVALID, codeOf { source.load("phone://a") })
    }
}
