package dev.magicmm.conformance

import dev.magicmm.ExifColumns
import dev.magicmm.ExifCondition
import dev.magicmm.Fired
import dev.magicmm.judge
import dev.magicmm.readSignals

/** Cases of `signals.json`: what a text says of time and place, or what EXIF says to that of some photos. */
internal fun runSignals(case: Case): Any {
    val given = case.inner("input")
    val fired = readSignals(given.text("text"))
    if (given.text("operation") == "read") return fired.map(::facts)
    return judge(fired, columnsOf(given.list("photos"))).mapValues { (_, values) ->
        values.map { value -> value.takeUnless { it.isNaN() } }
    }
}

private fun facts(fired: Fired): Map<String, Any> {
    val condition = when (val condition = fired.condition) {
        is ExifCondition.Daytime -> mapOf("first" to condition.first, "last" to condition.last)
        is ExifCondition.Months -> mapOf("months" to condition.months, "is_season" to condition.isSeason)
        is ExifCondition.Year -> mapOf("year" to condition.year)
        is ExifCondition.Near -> condition.place.run { mapOf("cities" to cities, "countries" to countries.sorted()) }
    }
    return mapOf("kind" to fired.signal.kind, "words" to fired.signal.words, "condition" to condition)
}

/** Photos as moment, latitude and longitude, each null when EXIF does not tell. */
private fun columnsOf(photos: List<Any?>): ExifColumns {
    val (taken, latitude, longitude) = List(3) { fact ->
        photos.map { ((it as List<*>)[fact] as Number?)?.toDouble() ?: Double.NaN }.toDoubleArray()
    }
    return ExifColumns(LongArray(photos.size) { it + 1L }, taken, latitude, longitude)
}
