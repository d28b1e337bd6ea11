package dev.magicmm

import java.text.Normalizer
import java.util.Locale
import kotlin.math.acos
import kotlin.math.cos
import kotlin.math.sin

// Places by name: cities and countries of the time zone database, and which coordinates lie near them.
//
// The table (`places.json` of the Python SDK) has one to thirty cities a country and no borders. So a city is what lies
// within CITY_KM of it; a country is what lies within COUNTRY_KM of one of its cities, and much farther from every other
// country's. Far from those cities a country is not recognised.

private const val TABLE = "/magicmm/places.json"
private const val CITY_KM = 40.0
private const val COUNTRY_KM = 100.0

/** How much farther the cities of all other countries must be. */
private const val FARTHER = 1.5
private const val EARTH_KM = 6371.0

private const val LAST_ACCENT = '\u0345'
private val OTHER_NUMBERS = setOf(Character.LETTER_NUMBER, Character.OTHER_NUMBER).map { it.toInt() }

/** What a name means: rows of [cities] in the table, and codes of [countries]. Either may be empty. */
@MagicInternals
public data class Place(val cities: List<Int>, val countries: Set<String>)

/**
 * The table.
 *
 * @param points The cities on the unit sphere: x, y, z.
 * @param codes The country of each city.
 * @property names Names as [plain] writes them.
 */
internal class PlaceTable(
    private val points: List<DoubleArray>,
    private val codes: List<String>,
    val names: Map<String, Place>,
) {
    /** Returns what says whether a latitude and a longitude (degrees) lie at [place]. */
    fun areaOf(place: Place): (Double, Double) -> Boolean {
        val cities = place.cities.map(points::get)
        val (own, others) = points.indices.partition { codes[it] in place.countries }
            .let { (own, others) -> own.map(points::get) to others.map(points::get) }
        return { latitude, longitude ->
            val photo = spherePoint(latitude, longitude)
            val nearest = nearestKm(photo, own)
            nearestKm(photo, cities) <= CITY_KM ||
                (nearest <= COUNTRY_KM && FARTHER * nearest < nearestKm(photo, others))
        }
    }

    companion object {
        /** The table that comes with the SDK. */
        val shipped: PlaceTable by lazy {
            val data = checkNotNull(PlaceTable::class.java.getResourceAsStream(TABLE)) { "$TABLE was not packaged" }
            tableOf(data.use { String(it.readBytes(), Charsets.UTF_8) })
        }
    }
}

private fun tableOf(text: String): PlaceTable {
    val raw = Json.parse(text) as Map<*, *>
    val places = (raw["cities"] as List<*>).map { it as List<*> }
    val cities = places.indices.groupBy { plain(places[it][0] as String) }
    val countries = (raw["countries"] as List<*>).map { it as List<*> }
        .groupBy({ (name, _) -> plain(name as String) }, { (_, code) -> code as String })
    val names = (cities.keys + countries.keys - "").associateWith { name ->
        Place(cities[name].orEmpty(), countries[name].orEmpty().toSet())
    }
    val points = places.map { (_, latitude, longitude) ->
        spherePoint((latitude as Number).toDouble(), (longitude as Number).toDouble())
    }
    return PlaceTable(points, places.map { it[3] as String }, names)
}

/**
 * Returns text without accents, in small letters, with single spaces: "São  Paulo" is "sao paulo".
 *
 * No name of a place and no word of time is left with a character beyond ASCII. Others become "_" where they belong to
 * a word, else "!", so that regular expressions mean the same on every platform.
 */
internal fun plain(text: String): String {
    val letters = Normalizer.normalize(text.replace('\u2019', '\''), Normalizer.Form.NFKD)
    return eachCodePoint(letters, ::plainCharacter).split(' ').filter { it.isNotEmpty() }.joinToString(" ")
}

private fun plainCharacter(character: String): String {
    val codePoint = character.codePoint(0)
    return when {
        isWhiteSpace(codePoint) || codePoint in 0x1C..0x1F -> " "
        codePoint < 0x80 -> character.lowercase(Locale.ROOT)
        isAccent(character) -> ""
        character == "\u00DF" || character == "\u1E9E" -> "ss"
        Character.isLetterOrDigit(codePoint) || Character.getType(codePoint) in OTHER_NUMBERS -> "_"
        else -> "!"
    }
}

/** Whether Unicode gives a character a place among the accents of a letter: then it moves in front of the last one. */
private fun isAccent(character: String): Boolean = character[0] == LAST_ACCENT ||
    Normalizer.normalize("$LAST_ACCENT$character", Normalizer.Form.NFD)[0] != LAST_ACCENT

private fun spherePoint(latitude: Double, longitude: Double): DoubleArray {
    val north = Math.toRadians(latitude)
    val east = Math.toRadians(longitude)
    return doubleArrayOf(cos(north) * cos(east), cos(north) * sin(east), sin(north))
}

/** Returns the great-circle distance to the nearest city; without cities, that to the other side of the earth. */
private fun nearestKm(photo: DoubleArray, cities: List<DoubleArray>): Double {
    var most = -1.0
    for (city in cities) most = maxOf(most, photo[0] * city[0] + photo[1] * city[1] + photo[2] * city[2])
    return EARTH_KM * acos(minOf(most, 1.0))
}
