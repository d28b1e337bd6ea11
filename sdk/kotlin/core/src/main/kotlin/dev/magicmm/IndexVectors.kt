package dev.magicmm

// The tables `vector` and `removed`.

/** One row of the table `vector`. */
@MagicInternals
public class VectorRow(public val seq: Long, public val photoId: Long, public val vector: Quantised)

/** Stores a photo's vector: int8 [dim] and its scale. */
@MagicInternals
public fun Index.putVector(photoId: Long, model: Model, vector: Quantised) {
    removeVectors(photoId, model)
    write(
        "INSERT INTO vector (photo_id, model_id, scale, codes) VALUES (?, ?, ?, ?)",
        photoId,
        model.id,
        vector.scale.toDouble(),
        vector.codes,
    )
}

/** Deletes a photo's vector of one model, or of all. */
@MagicInternals
public fun Index.removeVectors(photoId: Long, model: Model? = null) {
    if (model == null) {
        write("DELETE FROM vector WHERE photo_id = ?", photoId)
    } else {
        write("DELETE FROM vector WHERE photo_id = ? AND model_id = ?", photoId, model.id)
    }
}

/** Returns a photo's codes and scale. */
@MagicInternals
public fun Index.vectorOf(photoId: Long, model: Model): Quantised? =
    row("SELECT codes, scale FROM vector WHERE photo_id = ? AND model_id = ?", photoId, model.id)
        ?.let { (codes, scale) -> vectorOf(codes, scale, model) }

/** Returns how many photos have a vector of [model]. */
@MagicInternals
public fun Index.countVectors(model: Model): Int = count("SELECT COUNT(*) FROM vector WHERE model_id = ?", model.id)

/** Calls [visit] for the vectors written after [seq], in that order; reads them one by one. */
@MagicInternals
public fun Index.vectorsAfter(seq: Long, model: Model, visit: (VectorRow) -> Unit) {
    val query = "SELECT seq, photo_id, scale, codes FROM vector WHERE seq > ? AND model_id = ? ORDER BY seq"
    translatedErrors(path) {
        database.query(query, seq, model.id) { row ->
            val photoId = row.value(1) as? Long ?: throw corrupt(path, "it holds a vector of no photo")
            visit(VectorRow(row.value(0) as Long, photoId, vectorOf(row.value(3), row.value(2), model)))
        }
    }
}

/** Returns the numbers of the vectors that were deleted since the scan file was last written. */
@MagicInternals
public fun Index.removedSeqs(): LongArray =
    rows("SELECT seq FROM removed").let { rows -> LongArray(rows.size) { rows[it][0] as Long } }

/** Drops the numbers of deleted vectors that no scan file holds any more. */
@MagicInternals
public fun Index.forgetRemoved(upTo: Long) {
    write("DELETE FROM removed WHERE seq <= ?", upTo)
}

private fun Index.vectorOf(codes: Any?, scale: Any?, model: Model): Quantised {
    if (codes !is ByteArray || codes.size != model.dim) throw corrupt(path, "it holds a vector of the wrong length")
    // 1 / sqrt(sum codes^2)
    if (scale !is Double || !(scale > 0 && scale <= 1)) throw corrupt(path, "it holds a vector without a length")
    return Quantised(codes, scale.toFloat())
}
