package dev.magicmm.android

import java.io.ByteArrayOutputStream
import java.nio.ByteBuffer
import java.util.zip.CRC32

private const val ASCII = 2
private const val SHORT = 3
private const val LONG = 4
private const val RATIONAL = 5

/** A JPEG with an EXIF header: its turn, 2017-07-14 02:40:00, and a place in the south-east. */
internal fun withExif(jpeg: ByteArray, orientation: Int = 1): ByteArray {
    val tiff = Tiff()
    val exif = tiff.directory(listOf(Entry(0x9003, ASCII, "2017:07:14 02:40:00\u0000".toByteArray())))
    val gps = tiff.directory(
        listOf(
            Entry(1, ASCII, "S\u0000".toByteArray()),
            Entry(2, RATIONAL, fractions(48, 1, 8, 1, 1234, 100)),
            Entry(3, ASCII, "E\u0000".toByteArray()),
            Entry(4, RATIONAL, fractions(11, 1, 34, 1, 5678, 100)),
        ),
    )
    val first = listOf(short(0x0112) + short(SHORT) + int(1) + short(orientation) + short(0)) +
        listOf(0x8769 to exif, 0x8825 to gps).map { (tag, place) -> short(tag) + short(LONG) + int(1) + int(place) }
    val body = "Exif\u0000\u0000".toByteArray() + tiff.bytes(short(3) + first.reduce(ByteArray::plus) + int(0))
    val segment = byteArrayOf(0xFF.toByte(), 0xE1.toByte()) + short(body.size + 2) + body
    return jpeg.copyOf(2) + segment + jpeg.copyOfRange(2, jpeg.size)
}

/** A PNG that announces another size than it has. */
internal fun withPngSize(png: ByteArray, width: Int, height: Int): ByteArray {
    val out = png.copyOf()
    ByteBuffer.wrap(out, 16, 8).putInt(width).putInt(height)
    val sum = CRC32().apply { update(out, 12, 17) }.value.toInt()
    ByteBuffer.wrap(out, 29, 4).putInt(sum)
    return out
}

private class Entry(val tag: Int, val type: Int, val value: ByteArray)

/** Big-endian TIFF, as EXIF uses it: a first directory of three entries, then the others, each after its values. */
private class Tiff {
    private val out = ByteArrayOutputStream()

    /** Writes a directory; returns where it is. */
    fun directory(entries: List<Entry>): Int {
        val places = entries.map {
            val isLong = it.value.size > 4
            if (isLong) {
                HEADER + out.size().also { _ -> out.write(it.value) }
            } else {
                null
            }
        }
        val start = HEADER + out.size()
        out.write(short(entries.size))
        for ((entry, place) in entries.zip(places)) {
            val size = mapOf(ASCII to 1, RATIONAL to 8).getValue(entry.type)
            out.write(short(entry.tag) + short(entry.type) + int(entry.value.size / size))
            out.write(if (place == null) entry.value.copyOf(4) else int(place))
        }
        out.write(int(0))
        return start
    }

    fun bytes(first: ByteArray): ByteArray = "MM".toByteArray() + short(42) + int(8) + first + out.toByteArray()

    private companion object {
        const val HEADER = 8 + 2 + 3 * 12 + 4
    }
}

private fun short(value: Int): ByteArray = ByteBuffer.allocate(2).putShort(value.toShort()).array()

private fun int(value: Int): ByteArray = ByteBuffer.allocate(4).putInt(value).array()

private fun fractions(vararg parts: Int): ByteArray = parts.map(::int).reduce(ByteArray::plus)
