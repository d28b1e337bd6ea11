package dev.magicmm.android

import android.Manifest
import android.app.Application
import android.graphics.Bitmap
import android.provider.MediaStore
import dev.magicmm.Changes
import dev.magicmm.ErrorCode
import dev.magicmm.Gallery
import dev.magicmm.MagicError
import dev.magicmm.PhotoSkipped
import dev.magicmm.SkipReason
import dev.magicmm.Stamp
import dev.magicmm.jvm.SqliteJdbc
import org.junit.After
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import java.io.File
import java.nio.file.Files

private const val PARTIAL = "android.permission.READ_MEDIA_VISUAL_USER_SELECTED"

/** The media library as a source, and whole syncs from it while things go wrong. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class MediaStoreSourceTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val app: Application get() = RuntimeEnvironment.getApplication()
    private lateinit var library: FakeMediaStore
    private lateinit var source: MediaStoreSource

    @Before
    fun setUp() {
        warmUpGraphics()
        library = Robolectric.buildContentProvider(FakeMediaStore::class.java).create("media").get()
        library.photos = List(6) { FakePhoto(it + 1L, picture(it)) }
        shadowOf(app).grantPermissions(Manifest.permission.READ_MEDIA_IMAGES)
        source = MediaStoreSource(app)
    }

    private val galleries = ArrayList<Gallery>()

    @After
    fun tearDown() = galleries.forEach { it.close() }

    private fun picture(number: Int): File {
        val bitmap = Bitmap.createBitmap(40, 30, Bitmap.Config.ARGB_8888).apply {
            eraseColor(0xFF000000.toInt() or (number * 0x2A1755))
        }
        val file = folder.newFile("photo$number.png")
        file.outputStream().use { bitmap.compress(Bitmap.CompressFormat.PNG, 100, it) }
        return file
    }

    private fun gallery(): Gallery =
        Gallery.open(app, MeanColour(), listOf(source), folder.root.toPath().resolve("index.db")).also {
            galleries += it
        }

    private fun look(known: Changes? = null): Changes {
        val stamps = known?.new.orEmpty().associate { it.uri to it.stamp }
        return source.changes(stamps, stamps.keys)
    }

    private fun uri(id: Long, volume: String = "external_primary") = "content://media/$volume/images/media/$id"

    @Test
    fun photosAreListedNewestFirst() {
        val found = look()
        assertEquals((6L downTo 1L).map { uri(it) }, found.new.map { it.uri })
        assertEquals(emptyList<String>(), found.unavailable)
        assertEquals(6, look(found).unchanged)
    }

    @Test
    fun binAndUnfinishedPhotosAreLeftOut() {
        val before = look()
        library.photos = library.photos.map { it.copy(isTrashed = it.id == 2L, isPending = it.id == 5L) }
        assertEquals(listOf(uri(2), uri(5)), look(before).removed)
    }

    @Test
    fun anEditWithinTheSameSecondShows() {
        val before = look()
        library.photos = library.photos.map { if (it.id == 3L) it.copy(generation = 9) else it }
        assertEquals(listOf(uri(3)), look(before).changed.map { it.uri })
    }

    @Test
    fun partialAccessFollowsTheChoice() {
        val before = look()
        shadowOf(app).denyPermissions(Manifest.permission.READ_MEDIA_IMAGES)
        shadowOf(app).grantPermissions(PARTIAL)
        assertEquals(PhotoAccess.PARTIAL, PhotoAccess.of(app))
        library.photos = library.photos.filter { it.id <= 2 }
        assertEquals((3L..6L).map { uri(it) }, look(before).removed)
    }

    @Test
    fun withoutAccessNothingIsForgotten() {
        val before = look()
        shadowOf(app).denyPermissions(Manifest.permission.READ_MEDIA_IMAGES)
        library.photos = emptyList()
        val found = look(before)
        assertEquals(listOf("content://media/"), found.unavailable)
        assertEquals(emptyList<String>(), found.removed)
    }

    @Test
    fun anEmptyAnswerIsNoReasonToForget() {
        val before = look()
        library.photos = emptyList()
        assertEquals(emptyList<String>(), look(before).removed)
        assertEquals(listOf("content://media/"), look(before).unavailable)
    }

    @Test
    fun aCardThatIsNotMountedKeepsItsPhotos() {
        val onCard = Stamp(10, 20)
        val known = look().new.associate { it.uri to it.stamp } + (uri(77, "1234-abcd") to onCard)
        val found = source.changes(known, known.keys)
        assertEquals(emptyList<String>(), found.removed)
        assertEquals(listOf("content://media/1234-abcd/"), found.unavailable)
    }

    @Test
    fun aCardTakenOutInMidSyncIsSkipped() {
        library.awayVolume = "1234-abcd"
        val skipped = assertThrows(PhotoSkipped::class.java) { source.load(uri(2, "1234-abcd")) }
        assertEquals(SkipReason.READ_FAILED, skipped.reason)
        assertTrue(SkipReason.READ_FAILED.isTransient)
    }

    @Test
    fun photosAreReadWhole() {
        val file = source.load(uri(4))
        assertArrayEquals(library.photos[3].file.readBytes(), file.data)
        assertEquals(library.photos[3].file.length(), file.stamp.bytes)
        assertEquals(SkipReason.VANISHED, assertThrows(PhotoSkipped::class.java) { source.load(uri(99)) }.reason)
        library.beforeOpen = { throw SecurityException("revoked") }
        assertEquals(
            SkipReason.PERMISSION_DENIED,
            assertThrows(PhotoSkipped::class.java) {
                source.load(uri(4))
            }.reason,
        )
    }

    @Test
    fun aSyncIndexesAndSearches() {
        val gallery = gallery()
        val last = gallery.sync()
        assertEquals(listOf(6, 6, 0), listOf(last.done, last.embedded, last.skipped))
        val id = gallery.photoId(uri(3))!!
        assertEquals(uri(3), gallery.search(image = library.photos[2].file.readBytes(), k = 1).matches.single().uri)
        assertEquals(5, gallery.similar(id).matches.size)
        assertEquals(0, gallery.sync().total)
    }

    @Test
    fun accessRevokedInMidSyncKeepsWhatWasDone() {
        gallery().sync()
        library.photos = library.photos + List(4) { FakePhoto(10L + it, picture(10 + it)) }
        library.beforeOpen = { photo -> if (photo.id < 13) throw SecurityException("revoked") }
        val gallery = gallery()
        assertEquals(3, gallery.sync().skipped)
        assertEquals(7, gallery.status().indexed)
        assertEquals(setOf(SkipReason.PERMISSION_DENIED), gallery.status().skipped.map { it.reason }.toSet())
        shadowOf(app).denyPermissions(Manifest.permission.READ_MEDIA_IMAGES)
        assertEquals(listOf("content://media/"), gallery.sync().unavailable)
        assertEquals(7, gallery.status().indexed)
        shadowOf(app).grantPermissions(Manifest.permission.READ_MEDIA_IMAGES)
        library.beforeOpen = {}
        gallery.sync()
        assertEquals(10, gallery.status().indexed)
    }

    @Test
    fun aPhotoDeletedWhileIndexedIsSkippedAndThenForgotten() {
        library.beforeOpen = { photo -> if (photo.id == 4L) throw java.io.FileNotFoundException("gone") }
        val gallery = gallery()
        gallery.sync()
        assertEquals(listOf(SkipReason.VANISHED), gallery.status().skipped.map { it.reason })
        library.photos = library.photos.filter { it.id != 4L }
        gallery.sync()
        assertEquals(emptyList<SkipReason>(), gallery.status().skipped.map { it.reason })
        assertEquals(5, gallery.status().indexed)
    }

    @Test
    fun aCorruptPhotoIsSkippedWithItsReason() {
        val half = library.photos[0].file.readBytes().let { it.copyOf(it.size / 2) }
        library.photos[0].file.writeBytes(half)
        library.photos[1].file.writeBytes(ByteArray(0))
        library.photos[2].file.writeText("no picture")
        val gallery = gallery()
        gallery.sync()
        val reasons = gallery.status().skipped.associate { it.uri to it.reason }
        val expected = mapOf(1L to SkipReason.TRUNCATED, 2L to SkipReason.EMPTY_FILE, 3L to SkipReason.NOT_AN_IMAGE)
        assertEquals(expected.mapKeys { uri(it.key) }, reasons)
        assertEquals(3, gallery.status().indexed)
    }

    @Test
    fun anIndexOfALaterVersionIsRefused() {
        gallery().sync()
        val path = folder.root.toPath().resolve("index.db")
        galleries.removeAt(0).close()
        SqliteJdbc.open(path, 1000).use { it.execute("PRAGMA user_version = 9") }
        val error = assertThrows(MagicError::class.java) { gallery() }
        assertEquals(ErrorCode.INDEX_TOO_NEW, error.code)
    }

    @Test
    fun withoutSpaceTheSyncSaysSoAndSearchGoesOn() {
        val gallery = gallery()
        gallery.sync()
        library.photos = library.photos + List(3) { FakePhoto(30L + it, picture(30 + it)) }
        val full = Gallery.open(folder.root.toPath().resolve("index.db"), MeanColour(), listOf(source), FullDisk)
        galleries += full
        assertEquals(ErrorCode.STORAGE_FAILED, assertThrows(MagicError::class.java) { full.sync() }.code)
        assertEquals(6, gallery.status().indexed)
        gallery.sync()
        assertEquals(9, gallery.status().indexed)
    }

    @Test
    fun theIndexIsTheSameFileOnADesktop() {
        gallery().sync()
        val path = folder.root.toPath().resolve("index.db")
        Gallery.open(path, MeanColour(), emptyList(), SqliteJdbc).use { desktop ->
            assertEquals(6, desktop.status().indexed)
            assertEquals(uri(5), desktop.search(image = library.photos[4].file.readBytes(), k = 1).matches.single().uri)
        }
    }

    @Test
    fun aDeletedIndexLeavesNothing() {
        val path = folder.root.toPath().resolve("index.db")
        gallery().sync()
        galleries.removeAt(0).close()
        deleteIndex(path)
        assertFalse(Files.list(path.parent).use { files -> files.anyMatch { "index" in it.fileName.toString() } })
    }

    @Test
    @Config(sdk = [26])
    fun androidEightHasNeitherVolumesNorGenerations() {
        shadowOf(app).grantPermissions(Manifest.permission.READ_EXTERNAL_STORAGE)
        val gallery = gallery()
        gallery.sync()
        assertEquals(6, gallery.status().indexed)
        assertTrue(gallery.photoId("content://media/external/images/media/2") != null)
        assertEquals(MediaStore.Images.Media.EXTERNAL_CONTENT_URI.toString(), "content://media/external/images/media")
    }
}
