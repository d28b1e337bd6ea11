package dev.magicmm

import java.time.DateTimeException
import java.time.Instant
import java.time.LocalDate
import java.time.LocalDateTime
import java.time.LocalTime
import java.time.OffsetDateTime
import java.time.ZoneId
import java.time.ZoneOffset
import java.time.ZonedDateTime
import java.time.temporal.Temporal

/** A box of degrees; [west] > [east] crosses the 180th meridian. */
public data class GeoBox(val south: Double, val west: Double, val north: Double, val east: Double)

/**
 * Conditions that all must hold; null = any. They apply before top-k: k asked is k given whenever k photos pass.
 *
 * @property since First moment, as the camera's wall clock: a `LocalDateTime`; a `LocalDate` means its first moment;
 *   `Instant`, `OffsetDateTime` and `ZonedDateTime` are first read on this machine's clock.
 * @property until Last moment; a `LocalDate` means its last. Photos without an EXIF date count with their file's date.
 * @property under URIs of folders (ending in "/"); a photo in any of them, at any depth, passes.
 * @property minBytes Smallest file.
 * @property maxBytes Largest file.
 * @property minSide Pixels that the shorter side of the photo must have.
 * @property box Where the photo was taken; photos without a place do not pass.
 * @property ids Photo ids to choose from.
 */
public data class Filter(
    val since: Temporal? = null,
    val until: Temporal? = null,
    val under: List<String> = emptyList(),
    val minBytes: Long? = null,
    val maxBytes: Long? = null,
    val minSide: Int? = null,
    val box: GeoBox? = null,
    val ids: Collection<Long>? = null,
) {
    /** Whether every photo passes. */
    val isEmpty: Boolean get() = this == Filter()

    /**
     * Returns a condition on the table `photo`; [ids] is left to the caller.
     *
     * @throws MagicError `argument_invalid` for a box that is none, a folder that does not end in "/", or a moment of
     *   another kind.
     */
    @MagicInternals
    public fun toSql(): SqlCondition {
        val wallClock = "COALESCE(taken, modified / 1e9)"
        val simple = listOf(
            "$wallClock >= ?" to since?.let { wallSeconds(it, LocalTime.MIN) },
            "$wallClock <= ?" to until?.let { wallSeconds(it, LAST_MOMENT) },
            "bytes >= ?" to minBytes,
            "bytes <= ?" to maxBytes,
            "MIN(width, height) >= ?" to minSide,
        ).filter { it.second != null }
        val terms = simple.mapTo(ArrayList()) { it.first }
        val values = simple.mapTo(ArrayList<Any?>()) { it.second }
        if (under.isNotEmpty()) {
            terms += under.joinToString(" OR ", "(", ")") { "(uri >= ? AND uri < ?)" }
            under.forEach { values.addAll(checkedRange(it)) }
        }
        if (box != null) {
            checkBox(box)
            val joint = if (box.west <= box.east) "AND" else "OR"
            terms += "latitude BETWEEN ? AND ?"
            terms += "(longitude >= ? $joint longitude <= ?)"
            values.addAll(listOf(box.south, box.north, box.west, box.east))
        }
        return SqlCondition(terms.joinToString(" AND ").ifEmpty { "1" }, values)
    }

    private companion object {
        val LAST_MOMENT: LocalTime = LocalTime.of(23, 59, 59, 999_999_000)
    }
}

/** A WHERE expression and its parameters. */
@MagicInternals
public class SqlCondition(public val condition: String, public val values: List<Any?>)

/** Returns a wall-clock moment as seconds since 1970-01-01 00:00 of the same clock, to the microsecond. */
internal fun wallSeconds(moment: Temporal, defaultTime: LocalTime): Double {
    val zone = ZoneId.systemDefault()
    val local = try {
        when (moment) {
            is LocalDate -> moment.atTime(defaultTime)
            is LocalDateTime -> moment
            is Instant -> LocalDateTime.ofInstant(moment, zone)
            is OffsetDateTime -> moment.atZoneSameInstant(zone).toLocalDateTime()
            is ZonedDateTime -> moment.withZoneSameInstant(zone).toLocalDateTime()
            else -> throw DateTimeException("${moment.javaClass.simpleName} is neither a date nor a moment")
        }
    } catch (error: DateTimeException) {
        throw MagicError(ErrorCode.ARGUMENT_INVALID, "${error.message}.", "Give a LocalDate or LocalDateTime.", error)
    }
    return (local.toEpochSecond(ZoneOffset.UTC) * 1_000_000 + local.nano / 1000) / 1e6
}

private fun checkedRange(folder: String): List<String> {
    if (folder.endsWith("/")) return uriRange(folder).asList()
    throw MagicError(
        ErrorCode.ARGUMENT_INVALID,
        "under holds \"$folder\", which is no folder.",
        "Give folder URIs that end in \"/\".",
    )
}

private fun checkBox(box: GeoBox) {
    // NaN compares as false.
    val isBox = box.south >= -90 && box.south <= box.north && box.north <= 90 &&
        box.west in -180.0..180.0 && box.east in -180.0..180.0
    if (isBox) return
    throw MagicError(
        ErrorCode.ARGUMENT_INVALID,
        "$box is no box of degrees.",
        "Give south <= north within -90..90 and west, east within -180..180.",
    )
}
