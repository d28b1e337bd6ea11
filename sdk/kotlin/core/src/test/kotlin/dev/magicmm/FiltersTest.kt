package dev.magicmm

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import java.time.LocalDate
import java.time.LocalDateTime
import java.time.LocalTime
import java.time.Year
import java.time.ZoneId

class FiltersTest {
    @Test
    fun `an empty filter has no condition`() {
        assertTrue(Filter().isEmpty)
        assertFalse(Filter(ids = emptyList()).isEmpty)
        assertEquals("1", Filter().toSql().condition)
    }

    @Test
    fun `a date means its first or its last moment`() {
        val day = LocalDate.of(1970, 1, 2)
        val values = Filter(since = day, until = day).toSql().values
        assertEquals(listOf(86400.0, 172799.999999), values)
    }

    @Test
    fun `a moment with a zone is read on this machine's clock`() {
        val local = LocalDateTime.of(2024, 5, 6, 7, 8, 9)
        val zoned = local.atZone(ZoneId.systemDefault())
        assertEquals(wallSeconds(local, LocalTime.MIN), wallSeconds(zoned, LocalTime.MIN))
        assertEquals(wallSeconds(local, LocalTime.MIN), wallSeconds(zoned.toInstant(), LocalTime.MIN))
        assertEquals(wallSeconds(local, LocalTime.MIN), wallSeconds(zoned.toOffsetDateTime(), LocalTime.MIN))
    }

    @Test
    fun `what makes no sense is refused`() {
        val senseless = listOf(
            Filter(under = listOf("file:///a")),
            Filter(since = Year.of(2024)),
            Filter(box = GeoBox(10.0, 0.0, 5.0, 1.0)),
            Filter(box = GeoBox(-91.0, 0.0, 5.0, 1.0)),
            Filter(box = GeoBox(0.0, -181.0, 5.0, 1.0)),
            Filter(box = GeoBox(0.0, 0.0, Double.NaN, 1.0)),
            Filter(box = GeoBox(0.0, 0.0, 1.0, Double.POSITIVE_INFINITY)),
        )
        for (filter in senseless) {
            assertEquals(ErrorCode.ARGUMENT_INVALID, assertThrows<MagicError> { filter.toSql() }.code, "$filter")
        }
    }
}
