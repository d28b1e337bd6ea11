package dev.magicmm

import org.junit.jupiter.api.Test
import java.time.LocalDateTime
import java.time.ZoneOffset
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertTrue

/** Words and facts in small; that both languages agree on many more is tested from Python. */
class SignalsTest {
    private val sydney = -33.87 to 151.2

    @Test
    fun `words fire in the order of their kinds`() {
        val said = readSignals("Food from S\u00e3o Paulo, December 2019, in the early evening").map { it.signal }
        val expected = listOf(
            Signal("time", "in the early evening"),
            Signal("month", "december"),
            Signal("year", "2019"),
            Signal("place", "from sao paulo"),
        )
        assertEquals(expected, said)
        for (text in listOf("", "may I", "a winter coat", "a china plate", "in parisian style", "in the", "\u732b")) {
            assertEquals(0, readSignals(text).size, text)
        }
    }

    @Test
    fun `letters of any script end no word, and other characters do`() {
        assertEquals(0, readSignals("in paris\u306e, \u00e9in paris, in paris\ud801\udc00").size)
        val ended = "in paris\u3002 in pa\u0301ris\ud83d\ude00 in paris\u093f"
        assertEquals(List(3) { "in paris" }, readSignals(ended).map { it.signal.words })
    }

    @Test
    fun `the longest name is taken, without a full stop at its end`() {
        assertEquals("in new york", readSignals("in New York.").single().signal.words)
        assertEquals("in the south georgia and the south sandwich islands", readSignals(LONGEST).single().signal.words)
    }

    @Test
    fun `hours cross midnight`() {
        val hours = columnsOf(*listOf(20, 21, 23, 0, 4, 5).map { clock(2020, 5, 1, it) to null }.toTypedArray())
        assertEquals(listOf(0.0, 1.0, 1.0, 1.0, 1.0, 0.0), judged("at night", hours).getValue("time"))
        val before1970 = columnsOf(clock(1969, 12, 31, 23) to null, null to sydney)
        assertEquals(mapOf("time" to listOf(1.0, Double.NaN)), judged("at midnight", before1970))
    }

    @Test
    fun `seasons turn around in the south`() {
        val (january, july) = listOf(clock(2020, 1, 15, 0), clock(2020, 7, 15, 0))
        val photos = columnsOf(january to null, january to sydney, july to null, july to sydney)
        assertEquals(listOf(1.0, 0.0, 0.0, 1.0), judged("in winter", photos).getValue("season"))
        assertEquals(listOf(0.0, 0.0, 1.0, 1.0), judged("in july", photos).getValue("month"))
    }

    @Test
    fun `of several places one has to fit`() {
        val photos = columnsOf(null to (52.52 to 13.4), null to (48.86 to 2.35), null to sydney, null to null)
        val expected = listOf(1.0, 1.0, 0.0, Double.NaN)
        assertEquals(mapOf("place" to expected), judged("in berlin or in paris", photos))
    }

    @Test
    fun `a country is what lies near its cities alone`() {
        val isItaly = PlaceTable.shipped.areaOf(PlaceTable.shipped.names.getValue("italy"))
        assertTrue(isItaly(41.9, 12.5))
        assertFalse(isItaly(43.73, 7.42)) // Monaco
        assertFalse(isItaly(-41.9, -167.5))
    }

    private fun judged(text: String, photos: ExifColumns): Map<String, List<Double>> =
        judge(readSignals(text), photos).mapValues { it.value.toList() }

    private fun columnsOf(vararg photos: Pair<Double?, Pair<Double, Double>?>) = ExifColumns(
        LongArray(photos.size) { it + 1L },
        DoubleArray(photos.size) { photos[it].first ?: Double.NaN },
        DoubleArray(photos.size) { photos[it].second?.first ?: Double.NaN },
        DoubleArray(photos.size) { photos[it].second?.second ?: Double.NaN },
    )

    private fun clock(year: Int, month: Int, day: Int, hour: Int): Double =
        LocalDateTime.of(year, month, day, hour, 0).toEpochSecond(ZoneOffset.UTC).toDouble()

    private companion object {
        const val LONGEST = "penguins in the South Georgia and the South Sandwich Islands"
    }
}
