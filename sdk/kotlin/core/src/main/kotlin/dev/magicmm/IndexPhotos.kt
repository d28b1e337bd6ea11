package dev.magicmm

// The table `photo`.

private const val IDS_A_QUERY = 500 // older SQLite allows 999 parameters a statement
private const val FACT_COLUMNS = "uri, bytes, modified, hash, taken, latitude, longitude, width, height, reason, detail"

/**
 * Returns the stamps of a source's photos that need no work unless their file changes: those with a vector of [model],
 * and those skipped for a reason that lasts.
 */
@MagicInternals
public fun Index.stamps(sourceUri: String, model: Model?): Map<String, Stamp> {
    val lasting = SkipReason.values().filterNot { it.isTransient }.map { it.value }
    val marks = lasting.joinToString { "?" }
    val found = HashMap<String, Stamp>()
    for ((place, bytes, modified) in rows(
        "SELECT uri, bytes, modified FROM photo LEFT JOIN vector ON photo_id = photo.id AND model_id = ?" +
            " WHERE uri >= ? AND uri < ? AND (seq IS NOT NULL OR reason IN ($marks))",
        model?.id,
        *uriRange(sourceUri),
        *lasting.toTypedArray(),
    )) {
        found[uri(place)] = stampOf(bytes, modified)
    }
    return found
}

/** Returns the ids of all photos of a source by URI, skipped ones included. */
@MagicInternals
public fun Index.photoIds(sourceUri: String): Map<String, Long> =
    rows("SELECT uri, id FROM photo WHERE uri >= ? AND uri < ?", *uriRange(sourceUri))
        .associate { (place, id) -> uri(place) to id as Long }

/** Returns how many indexed photos have no vector of [model] yet. */
@MagicInternals
public fun Index.countMissing(model: Model): Int = count(
    "SELECT COUNT(*) FROM photo LEFT JOIN vector ON photo_id = photo.id AND model_id = ?" +
        " WHERE reason IS NULL AND seq IS NULL",
    model.id,
)

/** Returns how many photos have a row, skipped ones included. */
@MagicInternals
public fun Index.countPhotos(): Int = count("SELECT COUNT(*) FROM photo")

/** Returns the content hashes whose vector [model] has computed. */
@MagicInternals
public fun Index.knownHashes(model: Model): Set<ContentHash> =
    rows("SELECT hash FROM photo JOIN vector ON photo_id = photo.id AND model_id = ?", model.id)
        .mapNotNullTo(HashSet()) { hashOf(it[0]) }

/** Returns the id of the photo at [uri]. */
@MagicInternals
public fun Index.photoId(uri: String): Long? = row("SELECT id FROM photo WHERE uri = ?", uri)?.get(0) as Long?

/** Returns what is known of a photo. A fact of the wrong kind counts as unknown, so that a sync can mend it. */
@MagicInternals
public fun Index.photoFacts(photoId: Long): PhotoFacts? {
    val row = row("SELECT $FACT_COLUMNS FROM photo WHERE id = ?", photoId) ?: return null
    return PhotoFacts(
        uri = uri(row[0]),
        stamp = stampOf(row[1], row[2]),
        hash = hashOf(row[3]),
        taken = row[4] as? Double,
        latitude = row[5] as? Double,
        longitude = row[6] as? Double,
        width = (row[7] as? Long)?.toInt(),
        height = (row[8] as? Long)?.toInt(),
        reason = row[9]?.let(::reasonOf),
        detail = row[10] as? String,
    )
}

/** Returns the id of a photo with this content that has a vector of [model]. */
@MagicInternals
public fun Index.photoWithHash(hash: ContentHash, model: Model): Long? = row(
    "SELECT photo.id FROM photo JOIN vector ON vector.photo_id = photo.id AND vector.model_id = ?" +
        " WHERE hash = ? ORDER BY photo.id LIMIT 1",
    model.id,
    hash.bytes,
)?.get(0) as Long?

/** Writes a photo's row, new or in place of the row [photoId], and returns its id. */
@MagicInternals
public fun Index.putPhoto(facts: PhotoFacts, photoId: Long?): Long {
    val values = arrayOf(
        facts.uri, facts.stamp.bytes, facts.stamp.modified, facts.hash?.bytes, facts.taken, facts.latitude,
        facts.longitude, facts.width, facts.height, facts.reason?.value, facts.detail,
    )
    if (photoId == null) {
        return write("INSERT INTO photo ($FACT_COLUMNS) VALUES (${values.joinToString { "?" }})", *values)
    }
    val assignments = FACT_COLUMNS.split(", ").joinToString { "$it = ?" }
    write("UPDATE photo SET $assignments WHERE id = ?", *values, photoId)
    return photoId
}

/** Deletes photos with their vectors. */
@MagicInternals
public fun Index.removePhotos(uris: List<String>): Unit = translatedErrors(path) {
    database.executeMany("DELETE FROM photo WHERE uri = ?", uris.map { arrayOf(it) })
}

/** Returns every skipped photo with its reason, by URI. */
@MagicInternals
public fun Index.skips(): List<Skip> =
    rows("SELECT uri, reason, detail FROM photo WHERE reason IS NOT NULL ORDER BY uri")
        .map { (uri, reason, detail) -> Skip(uri.toString(), reasonOf(reason), detail?.toString().orEmpty()) }

/** Returns the ids of the skipped photos. */
@MagicInternals
public fun Index.skippedIds(): Set<Long> =
    rows("SELECT id FROM photo WHERE reason IS NOT NULL").mapTo(HashSet()) { it[0] as Long }

/** Returns the ids of the photos that pass a filter (its [Filter.ids] included). */
@MagicInternals
public fun Index.selectIds(where: Filter): LongArray {
    val terms = where.toSql()
    val chosen = where.ids?.toHashSet()
    return rows("SELECT id FROM photo WHERE reason IS NULL AND ${terms.condition}", *terms.values.toTypedArray())
        .map { it[0] as Long }
        .filter { chosen == null || it in chosen }
        .toLongArray()
}

/** Returns date and place of all indexed photos that have one of them, by id. */
@MagicInternals
public fun Index.exifColumns(): ExifColumns {
    val rows = rows(
        "SELECT id, taken, latitude, longitude FROM photo WHERE reason IS NULL" +
            " AND (taken IS NOT NULL OR latitude IS NOT NULL) ORDER BY id",
    )
    val (taken, latitude, longitude) = List(3) { fact -> DoubleArray(rows.size) { exifFact(rows[it][fact + 1]) } }
    return ExifColumns(LongArray(rows.size) { rows[it][0] as Long }, taken, latitude, longitude)
}

/** Returns photos in the given order; those deleted meanwhile are left out. */
@MagicInternals
public fun Index.matches(ids: LongArray, scores: FloatArray): List<Match> {
    val found = HashMap<Long, Array<Any?>>()
    for (some in ids.asList().chunked(IDS_A_QUERY)) {
        val marks = some.joinToString { "?" }
        val query = "SELECT id, uri, taken, width, height FROM photo WHERE id IN ($marks)"
        rows(query, *some.toTypedArray()).associateByTo(found) { it[0] as Long }
    }
    return ids.indices.mapNotNull { place -> found[ids[place]]?.let { matchOf(it, scores[place]) } }
}

/** Returns the ids of indexed photos whose files hold the same bytes, in groups of two or more. */
@MagicInternals
public fun Index.sameBytes(): List<LongArray> = rows(
    "SELECT hash, id FROM photo WHERE reason IS NULL AND hash IN" +
        " (SELECT hash FROM photo WHERE reason IS NULL GROUP BY hash HAVING COUNT(*) > 1) ORDER BY id",
)
    .groupBy { hashOf(it[0]) ?: it[0] }
    .values.map { group -> LongArray(group.size) { group[it][1] as Long } }

private fun Index.matchOf(row: Array<Any?>, score: Float): Match {
    val (id, place, taken) = row
    val sides = row.drop(3).map { it ?: 0L }
    if ((taken != null && taken !is Double) || sides.any { it !is Long }) {
        throw corrupt(path, "the row of photo $id makes no sense")
    }
    val (width, height) = sides.map { (it as Long).toInt() }
    return Match(id as Long, uri(place), score, taken, width, height)
}

private fun Index.exifFact(value: Any?): Double = when (value) {
    null -> Double.NaN
    is Number -> value.toDouble()
    else -> throw corrupt(path, "dates or places of its photos are no numbers")
}

internal fun Index.count(sql: String, vararg values: Any?): Int = (row(sql, *values)?.get(0) as? Long ?: 0L).toInt()

private fun hashOf(value: Any?): ContentHash? = (value as? ByteArray)?.let(::ContentHash)

// No file has a negative size: a stamp of the wrong kind is one that has changed.
private fun stampOf(bytes: Any?, modified: Any?): Stamp = Stamp(bytes as? Long ?: -1, modified as? Long ?: -1)
