package dev.magicmm

import java.time.LocalDate
import kotlin.math.floor

// What the words of a query say of time and place, and which photos' EXIF says the same: apart from the cosine.
//
// English only. A word counts where it can hardly mean anything else: "in may", "winter 2019", "at night", "in Rome";
// not in "may I", "a winter coat", "a china plate". Photos without the fact are neither lifted nor lowered, nor are
// those that differ.

private const val MONTHS = // in the order of the year
    "january|february|march|april|may|june|july|august|september|october|november|december"

/** Months whose names are no other words. */
private const val PLAIN_MONTHS = "january|february|july|september|october|november|december"
private val NORTHERN_SEASONS = linkedMapOf(
    "spring" to listOf(3, 4, 5),
    "summer" to listOf(6, 7, 8),
    "autumn" to listOf(9, 10, 11),
    "fall" to listOf(9, 10, 11),
    "winter" to listOf(12, 1, 2),
)
private val SEASONS = NORTHERN_SEASONS.keys.joinToString("|")

/** First and last hour of the camera's clock; wide where the sun sets the hour. */
private val DAYTIMES = mapOf(
    "night" to ExifCondition.Daytime(21.0, 5.0),
    "midnight" to ExifCondition.Daytime(23.0, 1.0),
    "dawn" to ExifCondition.Daytime(4.0, 8.0),
    "sunrise" to ExifCondition.Daytime(4.0, 8.0),
    "morning" to ExifCondition.Daytime(5.0, 12.0),
    "noon" to ExifCondition.Daytime(11.0, 14.0),
    "midday" to ExifCondition.Daytime(11.0, 14.0),
    "afternoon" to ExifCondition.Daytime(12.0, 18.0),
    "evening" to ExifCondition.Daytime(17.0, 23.0),
    "sunset" to ExifCondition.Daytime(16.0, 23.0),
    "dusk" to ExifCondition.Daytime(16.0, 23.0),
)
private const val YEAR = "(?:19[5-9][0-9]|20[0-9][0-9])"
private const val IN = "(?:in|during|from|since) (?:the )?(?:early |late |mid )?"
private const val FEASTS = "(?:christmas|easter|halloween|new year|new year's eve|trip|holidays?|vacation)"
private val TIME_PATTERN = Regex(
    "\\b(?:(?:at|by|during the|in the middle of the) (night|midnight|noon|midday|dawn|dusk|sunrise|sunset)" +
        "|in the (?:early |late )?(night|morning|afternoon|evening))\\b",
)
private val SEASON_PATTERN = Regex("\\b(?:$IN($SEASONS)|($SEASONS)(?= (?:of )?$YEAR\\b))\\b")
private val MONTH_PATTERN = Regex("\\b(?:$IN($MONTHS)|($MONTHS)(?=,? (?:of )?$YEAR\\b)|($PLAIN_MONTHS))\\b")
private val YEAR_PATTERN = Regex("\\b(?:$IN|(?:$MONTHS|$SEASONS|$FEASTS),? (?:of )?)($YEAR)\\b")
private val PLACE_PATTERN = Regex("\\b(?:in|near|from|at|around|outside) (?:the )?(?=\\w)")
private val NAME_WORD = Regex("[\\w.'\\-]+")

/** As many words as the longest name has. */
private const val PLACE_WORDS = 7
private const val DAY_SECONDS = 86_400L

/** Seconds: dates that no EXIF can hold lie beyond. */
private const val AGES = 2e11

/** Something that a query says. */
@MagicInternals
public sealed interface ExifCondition {
    /** Returns what EXIF says of each photo: 1 fits, 0 differs, NaN is not known. */
    public fun judge(photos: ExifColumns): DoubleArray

    /** Hours of the day, from [first] up to [last]; [first] > [last] crosses midnight. */
    public data class Daytime(val first: Double, val last: Double) : ExifCondition {
        override fun judge(photos: ExifColumns): DoubleArray = judgeDates(photos) { row ->
            val hour = photos.taken[row].mod(DAY_SECONDS.toDouble()) / 3600
            if (first < last) hour >= first && hour < last else hour >= first || hour < last
        }
    }

    /**
     * Months of the year (1 to 12); as a season they stand for the north, and are half a year later in the south. A
     * photo without a place counts as taken in the north.
     */
    public data class Months(val months: List<Int>, val isSeason: Boolean = false) : ExifCondition {
        override fun judge(photos: ExifColumns): DoubleArray = judgeDates(photos) { row ->
            val month = dayOf(photos.taken[row]).monthValue
            val isTurned = isSeason && photos.latitude[row] < 0
            (if (isTurned) (month + 5) % 12 + 1 else month) in months
        }
    }

    /** A year. */
    public data class Year(val year: Int) : ExifCondition {
        override fun judge(photos: ExifColumns): DoubleArray =
            judgeDates(photos) { row -> dayOf(photos.taken[row]).year == year }
    }

    /** A place of the table. */
    public data class Near(val place: Place) : ExifCondition {
        override fun judge(photos: ExifColumns): DoubleArray {
            val isInside = PlaceTable.shipped.areaOf(place)
            return DoubleArray(photos.size) { row ->
                val latitude = photos.latitude[row]
                val longitude = photos.longitude[row]
                if (latitude.isFinite() && longitude.isFinite()) truth(isInside(latitude, longitude)) else Double.NaN
            }
        }
    }
}

/** A signal in the words of a query, and what it demands. */
@MagicInternals
public class Fired(public val signal: Signal, public val condition: ExifCondition)

/** Returns what a query says of time and place, in the order of [Signal.kind] and of its words. */
@MagicInternals
public fun readSignals(text: String): List<Fired> {
    val words = plain(text)
    val times = TIME_PATTERN.findAll(words).map { Fired(Signal("time", it.value), DAYTIMES.getValue(said(it))) }
    val seasons = SEASON_PATTERN.findAll(words).map {
        Fired(Signal("season", it.value), ExifCondition.Months(NORTHERN_SEASONS.getValue(said(it)), isSeason = true))
    }
    val months = MONTH_PATTERN.findAll(words).map {
        Fired(Signal("month", it.value), ExifCondition.Months(listOf(MONTHS.split("|").indexOf(said(it)) + 1)))
    }
    val years = YEAR_PATTERN.findAll(words).map {
        Fired(Signal("year", said(it)), ExifCondition.Year(said(it).toInt()))
    }
    return (times + seasons + months + years + places(words)).toList()
}

/**
 * Returns by kind what EXIF says of each photo: 1 fits, 0 differs, NaN is not known. Of several signals of a kind ("in
 * Rome and in Paris") one has to fit.
 */
@MagicInternals
public fun judge(fired: List<Fired>, photos: ExifColumns): Map<String, DoubleArray> =
    fired.groupBy({ it.signal.kind }, { it.condition.judge(photos) }).mapValues { (_, judged) ->
        // All of a kind ask for the same fact, so it is known to all of them or to none.
        judged.reduce { one, other -> DoubleArray(one.size) { maxOf(one[it], other[it]) } }
    }

/** Returns what was judged of one photo, by kind; kinds that its EXIF does not tell are left out. */
internal fun signalsOf(judged: Map<String, DoubleArray>, photos: ExifColumns, photoId: Long): Map<String, Double> {
    val row = photos.ids.binarySearch(photoId)
    return if (row < 0) emptyMap() else judged.mapValues { it.value[row] }.filterValues { !it.isNaN() }
}

private fun places(words: String): Sequence<Fired> = PLACE_PATTERN.findAll(words).mapNotNull { match ->
    val name = longestName(words.substring(match.range.last + 1)) ?: return@mapNotNull null
    Fired(Signal("place", match.value + name), ExifCondition.Near(PlaceTable.shipped.names.getValue(name)))
}

/** Returns the longest name of the table that a text begins with. */
private fun longestName(rest: String): String? = NAME_WORD.findAll(rest).take(PLACE_WORDS).toList().asReversed()
    .map { rest.substring(0, it.range.last + 1).trimEnd('.') }
    .find { it in PlaceTable.shipped.names }

/** Returns the one group of a pattern that has matched. */
private fun said(match: MatchResult): String = match.groupValues.drop(1).first { it.isNotEmpty() }

private inline fun judgeDates(photos: ExifColumns, fits: (row: Int) -> Boolean): DoubleArray =
    DoubleArray(photos.size) { row -> if (photos.taken[row].isFinite()) truth(fits(row)) else Double.NaN }

private fun truth(fits: Boolean): Double = if (fits) 1.0 else 0.0

/** Returns the day of wall-clock seconds. */
private fun dayOf(taken: Double): LocalDate =
    LocalDate.ofEpochDay(Math.floorDiv(floor(taken).coerceIn(-AGES, AGES).toLong(), DAY_SECONDS))
