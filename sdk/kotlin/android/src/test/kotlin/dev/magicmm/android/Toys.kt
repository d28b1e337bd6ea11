package dev.magicmm.android

import dev.magicmm.Database
import dev.magicmm.DatabaseDriver
import dev.magicmm.DatabaseException
import dev.magicmm.PhotoEmbedder
import dev.magicmm.PreparedPhoto
import java.nio.file.Path

/** A model without a model: the mean colour of a photo, through the real decoder. */
internal class MeanColour : PhotoEmbedder {
    override val name = "mean colour"
    override val fingerprint = "ab".repeat(32)
    override val dim = 4

    /** What was given back. */
    @Volatile
    var released = ""

    override fun checkHashes() = Unit

    override fun preparePhoto(data: ByteArray): PreparedPhoto {
        val photo = AndroidDecoder.decode(data, 0)
        return PreparedPhoto(photo.rgb.pixels, photo.width, photo.height)
    }

    override fun embedPixels(pixels: List<ByteArray>): List<FloatArray> = pixels.map { picture ->
        val sums = FloatArray(dim)
        picture.forEachIndexed { place, value -> sums[place % 3] += (value.toInt() and 0xFF) / 255f - 0.5f }
        sums[3] = picture.size / 30f
        val length = Math.sqrt(sums.sumOf { it.toDouble() * it }).toFloat()
        FloatArray(dim) { sums[it] / length }
    }

    override fun embedQuery(text: String?, image: ByteArray?, truncate: Boolean): FloatArray =
        embedPixels(listOf(preparePhoto(image!!).pixels)).single()

    override fun releaseImages() {
        released += "images "
    }

    override fun release() {
        released += "all "
    }
}

/** SQLite whose files may not grow. */
internal object FullDisk : DatabaseDriver {
    override fun open(path: Path, busyMillis: Int): Database {
        val database = AndroidDatabase.open(path, busyMillis)
        return object : Database by database {
            override fun begin(isWriting: Boolean) {
                var pages = 0L
                database.query("PRAGMA page_count") { pages = it.value(0) as Long }
                database.query("PRAGMA max_page_count = $pages") {}
                database.begin(isWriting)
                // Takes what is free inside of the file, which SQLite would fill first.
                if (isWriting) database.execute("CREATE TABLE filler (v)").also { fill() }
            }

            private fun fill() {
                while (true) database.execute("INSERT INTO filler (v) VALUES (?)", ByteArray(2000))
            }
        }
    }
}
