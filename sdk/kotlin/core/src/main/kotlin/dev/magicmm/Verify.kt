package dev.magicmm

import java.io.IOException
import java.nio.file.Files

/** A vector further off than this means another model, another resize or a broken runtime, not rounding. */
private const val LEAST_COSINE = 0.999

/**
 * One golden case.
 *
 * @property name The case.
 * @property inputsEqual Whether the pixels or token ids are exactly those of the golden file.
 * @property cosine Between this machine's vector and the golden one.
 */
public class GoldenCheck internal constructor(
    public val name: String,
    public val inputsEqual: Boolean,
    public val cosine: Double,
) {
    /** Whether the case is as good as equal. */
    public val passes: Boolean get() = inputsEqual && cosine >= LEAST_COSINE
}

/**
 * What [Bundle.verify] found; hashes were right, or there would be an error instead of a report.
 *
 * @property fingerprint Of the bundle.
 * @property files How many files were hashed.
 * @property bytes Their size together.
 * @property checks The golden cases.
 */
public class VerifyReport internal constructor(
    public val fingerprint: String,
    public val files: Int,
    public val bytes: Long,
    public val checks: List<GoldenCheck>,
) {
    /** Whether every golden case does; a bundle without any proves nothing. */
    public val passes: Boolean get() = checks.isNotEmpty() && checks.all { it.passes }

    /** The furthest drift; 1 without cases. */
    public val leastCosine: Double get() = checks.minOfOrNull { it.cosine } ?: 1.0
}

internal fun verifyBundle(bundle: Bundle, sessions: SessionFactory): VerifyReport {
    bundle.checkHashes()
    return Embedder.open(bundle, sessions).use { embedder ->
        val checks = goldenCases(bundle).map { check(embedder, it) }
        VerifyReport(bundle.fingerprint, bundle.manifest.files.size, bundle.totalBytes, checks)
    }
}

/** One entry of the golden file. */
private class GoldenCase(
    val name: String,
    val text: String?,
    val ids: List<*>?,
    val image: RgbImage?,
    val pixelsSha256: String?,
    val vector: List<Double>,
)

private fun goldenCases(bundle: Bundle): List<GoldenCase> {
    fun unreadable(what: String, cause: Throwable? = null) =
        bundleInvalid("The golden cases of ${bundle.path} cannot be read ($what).", "Export it anew.", cause)
    try {
        val text = Files.readAllBytes(bundle.file(bundle.manifest.golden)).toText()
        val cases = (Json.parse(text) as? Map<*, *>)?.get("cases") as? List<*> ?: throw unreadable("there are none")
        return cases.map { case ->
            (case as? Map<*, *>)?.let { goldenCase(bundle, it) }
                ?: throw unreadable("one is broken")
        }
    } catch (error: IOException) {
        throw unreadable(saidBy(error), error)
    } catch (error: JsonError) {
        throw unreadable(saidBy(error), error)
    }
}

/** Null for an entry that breaks the format. */
private fun goldenCase(bundle: Bundle, case: Map<*, *>): GoldenCase? {
    val text = case["text"] as? String
    val image = (case["image"] as? String)?.let { name -> image(bundle, name, case) ?: return null }
    val vector = (case["vector"] as? List<*>)?.map { (it as? Number)?.toDouble() ?: return null } ?: return null
    val hasDirection = vector.size == bundle.manifest.dim && vector.all { it.isFinite() } && vector.any { it != 0.0 }
    if (!hasDirection || (text == null && image == null)) return null
    val name = case["name"] as? String ?: return null
    val ids = case["ids"] as? List<*>
    val digest = case["pixels_sha256"] as? String
    if ((text != null && ids == null) || (image != null && digest == null)) return null
    return GoldenCase(name, text, ids, image, digest, vector)
}

private fun image(bundle: Bundle, name: String, case: Map<*, *>): RgbImage? {
    val pixels = Files.readAllBytes(bundle.file(name))
    val width = case["width"] as? Long ?: return null
    val height = case["height"] as? Long ?: return null
    if (width !in 1..pixels.size || height !in 1..pixels.size || 3 * width * height != pixels.size.toLong()) return null
    return RgbImage(width.toInt(), height.toInt(), pixels)
}

private fun check(embedder: Embedder, case: GoldenCase): GoldenCheck {
    val idsEqual = case.text == null || embedder.tokenIds(case.text).map { it.toLong() } == case.ids
    val pixelsEqual =
        case.image == null || sha256().digest(embedder.prepare(case.image).data).toHex() == case.pixelsSha256
    val vector = embedder.embedQuery(case.text, case.image)
    val dot = vector.indices.sumOf { vector[it] * case.vector[it] }
    return GoldenCheck(case.name, idsEqual && pixelsEqual, dot / Math.sqrt(case.vector.sumOf { it * it }))
}
