package dev.magicmm.android

import android.Manifest
import android.content.Context
import android.net.Uri
import android.os.Build
import android.provider.MediaStore
import dev.magicmm.Changes
import dev.magicmm.PhotoFile
import dev.magicmm.PhotoRef
import dev.magicmm.PhotoSkipped
import dev.magicmm.PhotoSource
import dev.magicmm.SkipReason
import dev.magicmm.Stamp
import java.io.FileNotFoundException
import java.io.IOException

/**
 * The photos that Android's media library shows to this app, newest first; those in the bin or still being written are
 * left out.
 *
 * With partial access, photos that the user takes out of the choice leave the index like deleted ones. Without access, and
 * while a card is not mounted (Android 10 and later), what was indexed stays.
 *
 * @param context Any context; the application's is kept.
 */
public class MediaStoreSource(context: Context) : PhotoSource {
    private val context = context.applicationContext
    private val rows = MediaRows(this.context)

    /** URIs of photos are `content://media/VOLUME/images/media/ID`. */
    override val uri: String = "content://media/"

    override fun changes(known: Map<String, Stamp>, allKnown: Set<String>): Changes {
        val access = PhotoAccess.of(context)
        if (access == PhotoAccess.NONE) return unavailable()
        val new = ArrayList<PhotoRef>()
        val changed = ArrayList<PhotoRef>()
        val seen = HashSet<String>()
        val wasListed = rows.list { photo ->
            seen += photo.uri
            if (known[photo.uri] != photo.stamp) (if (photo.uri in allKnown) changed else new).add(photo)
        }
        // A grant withdrawn while the list was read would look as if photos were gone.
        if (!wasListed || PhotoAccess.of(context) != access) return unavailable()
        val away = awayVolumes(allKnown) + if (seen.isEmpty() && allKnown.isNotEmpty()) listOf(uri) else emptyList()
        val removed = allKnown.filter { it !in seen && away.none(it::startsWith) }.sorted()
        return Changes(new, changed, removed, seen.size - new.size - changed.size, away)
    }

    override fun load(uri: String): PhotoFile {
        try {
            val stamp =
                rows.stamp(uri) ?: throw PhotoSkipped(SkipReason.VANISHED, "$uri is not in the library any more.")
            if (stamp.bytes > MOST_BYTES) {
                throw PhotoSkipped(SkipReason.FILE_TOO_LARGE, "$uri has more than ${MOST_BYTES shr 20} MB.")
            }
            return PhotoFile(bytesOf(Uri.parse(uri)), stamp)
        } catch (error: SecurityException) {
            throw PhotoSkipped(SkipReason.PERMISSION_DENIED, "No permission to read $uri.", cause = error)
        } catch (error: FileNotFoundException) {
            throw PhotoSkipped(SkipReason.VANISHED, "$uri does not exist.", cause = error)
        } catch (error: IllegalArgumentException) {
            // What the library throws for a volume that was taken out since it was listed.
            throw PhotoSkipped(SkipReason.READ_FAILED, "$uri is on a volume that is away.", cause = error)
        } catch (error: IOException) {
            throw PhotoSkipped(SkipReason.READ_FAILED, "$uri cannot be read (${error.message}).", cause = error)
        } catch (error: OutOfMemoryError) {
            throw PhotoSkipped(SkipReason.FILE_TOO_LARGE, "$uri does not fit in memory.", cause = error)
        }
    }

    private fun unavailable() = Changes(unavailable = listOf(uri))

    /** Beginnings of known URIs on volumes that are not mounted. */
    private fun awayVolumes(allKnown: Set<String>): List<String> {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) return emptyList()
        // The device's own storage is part of it and always there.
        val mounted = MediaStore.getExternalVolumeNames(context) + MediaStore.VOLUME_EXTERNAL_PRIMARY
        val known = allKnown.mapTo(sortedSetOf()) { it.removePrefix(uri).substringBefore('/') }
        return known.filter { it !in mounted }.map { "$uri$it/" }
    }

    private fun bytesOf(address: Uri): ByteArray {
        val original = if (mayReadPlaces()) MediaStore.setRequireOriginal(address) else address
        val stream = context.contentResolver.openInputStream(original)
            ?: throw FileNotFoundException("the media library gives no stream")
        return stream.use { it.readBytes() }
    }

    /** Only the unchanged bytes have the hash, and so the vector, that the same photo has on another device. */
    private fun mayReadPlaces(): Boolean =
        Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q && isGranted(context, Manifest.permission.ACCESS_MEDIA_LOCATION)

    private companion object {
        const val MOST_BYTES = 512L shl 20
    }
}
