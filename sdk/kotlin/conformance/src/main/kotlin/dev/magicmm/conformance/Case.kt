package dev.magicmm.conformance

import dev.magicmm.RgbImage
import java.util.Base64

/** One JSON object of a vector file. A key that is not there is a mistake of the file, not a case. */
internal class Case(private val values: Map<String, Any?>) {
    operator fun contains(key: String): Boolean = key in values

    fun value(key: String): Any? = values.getValue(key)

    fun text(key: String): String = value(key) as String

    fun int(key: String): Int = (value(key) as Long).toInt()

    fun flag(key: String): Boolean = value(key) as Boolean

    fun float(key: String): Float = (value(key) as Number).toFloat()

    fun inner(key: String): Case = caseOf(value(key))

    fun list(key: String): List<Any?> = value(key) as List<Any?>

    fun texts(key: String): List<String> = list(key).map { it as String }

    fun ints(key: String): List<Int> = list(key).map { (it as Long).toInt() }

    fun floats(key: String): FloatArray = list(key).map { (it as Number).toFloat() }.toFloatArray()

    /** The values of an object whose values are texts; nothing when the key is missing. */
    fun textsByName(key: String): Map<String, String> {
        val found = values[key] as Map<*, *>? ?: return emptyMap()
        return found.entries.associate { it.key as String to it.value as String }
    }

    /** The bytes of a picture. */
    fun pixels(): ByteArray = Base64.getDecoder().decode(text("pixels"))

    fun rgb(): RgbImage = RgbImage(int("width"), int("height"), pixels())
}

internal fun caseOf(value: Any?): Case = Case((value as Map<*, *>).mapKeys { it.key as String })

/** A picture as vector files hold it. */
internal fun pictureOf(width: Int, height: Int, pixels: ByteArray): Map<String, Any> = mapOf(
    "width" to width,
    "height" to height,
    "channels" to 3,
    "pixels" to Base64.getEncoder().encodeToString(pixels),
)
