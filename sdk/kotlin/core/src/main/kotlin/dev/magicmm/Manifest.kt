package dev.magicmm

/**
 * One file of a bundle.
 *
 * @property bytes Its size.
 * @property sha256 The SHA-256 of its content, 64 hex digits.
 */
public data class FileEntry(public val bytes: Long, public val sha256: String)

/**
 * How a photo becomes pixels: each view is one [side] x [side] RGB picture, bicubic, in this order.
 *
 * @property side Side of a view or tile in pixels.
 * @property views `crop` and `squash` (docs/FORMAT.md, part 2).
 */
public data class ImageSpec(public val side: Int, public val views: List<String>)

/**
 * How a text becomes ids.
 *
 * @property tokenizer Name of the tokenizer file.
 * @property maxTokens The longest sequence, ids of the role included.
 * @property padId The id that fills short rows of a batch.
 */
public data class TextSpec(public val tokenizer: String, public val maxTokens: Int, public val padId: Int)

/**
 * The token table of a vision-language bundle: int8 rows, then one float32 scale a row (64-byte aligned).
 *
 * @property file Name of the file.
 * @property rows Number of token ids.
 * @property dim Length of a row.
 */
public data class TokenTable(public val file: String, public val rows: Int, public val dim: Int)

/**
 * One way to ask the model for a vector: constant ids around the photo and the text.
 *
 * The sequence is head + [imageBefore + visual tokens + imageAfter] + [text] + tail; a part without its input leaves its
 * ids out.
 *
 * @property head First ids.
 * @property imageBefore Ids before the visual tokens.
 * @property imageAfter Ids behind the visual tokens.
 * @property text The text line; holds `{text}` once.
 * @property tail Last ids.
 * @property prefix File with the keys and values of [head], which then is not run again, or null.
 * @property maxTiles 1 = the views of the photo; more = tiles.
 */
public data class Role(
    public val head: List<Int>,
    public val imageBefore: List<Int>,
    public val imageAfter: List<Int>,
    public val text: String,
    public val tail: List<Int>,
    public val prefix: String?,
    public val maxTiles: Int,
)

/**
 * What turns scores of a search by words into a probability (docs/FORMAT.md, "Confidence").
 *
 * @property quantile Of the library's scores for a query; how far the best match stands above it is its excess.
 * @property intercept Of the logit.
 * @property excess Logits for a cosine of excess.
 * @property logPhotos Logits for each factor e of photos searched.
 * @property leastPhotos Libraries that are smaller get no confidence.
 * @property threshold Below it, probably nothing matches.
 */
public data class ConfidenceSpec(
    public val quantile: Double,
    public val intercept: Double,
    public val excess: Double,
    public val logPhotos: Double,
    public val leastPhotos: Int,
    public val threshold: Double,
)

/**
 * Everything that a bundle says of itself (docs/FORMAT.md, part 1).
 *
 * @property id Name for people and for the index.
 * @property architecture `dual_encoder` or `vision_language`.
 * @property dim Length of the vectors.
 * @property weights Identity of the weights, the same for every runtime.
 * @property image How a photo becomes pixels.
 * @property text How a text becomes ids.
 * @property tokens The token table; null in a dual encoder.
 * @property roles Roles by name; `photo` and `query` always, `composed` too in `vision_language` and beside a
 *   `composed` graph.
 * @property composedTextWeight Weight of the text in a query of photo and text; null when both go through the model in
 *   one pass and nothing is added: always in `vision_language`, and in a dual encoder with a `composed` graph that does
 *   not say otherwise.
 * @property graphs Runtime to part to file.
 * @property packed Runtime to part to file of packed weights.
 * @property alternatives Runtime to part to file of another graph of the same weights.
 * @property quantisation Part to scheme, in words.
 * @property golden File of golden cases.
 * @property files Every file of the bundle but the manifest.
 * @property confidence What turns scores into a probability, or null.
 * @property raw The whole manifest, with what only people read. Values are maps, lists, `String`, `Boolean`, `Long`,
 *   `BigInteger`, `Double` and null.
 */
public class Manifest internal constructor(
    public val id: String,
    public val architecture: String,
    public val dim: Int,
    public val weights: String,
    public val image: ImageSpec,
    public val text: TextSpec,
    public val tokens: TokenTable?,
    public val roles: Map<String, Role>,
    public val composedTextWeight: Double?,
    public val graphs: Map<String, Map<String, String>>,
    public val packed: Map<String, Map<String, String>>,
    public val alternatives: Map<String, Map<String, String>>,
    public val quantisation: Map<String, String>,
    public val golden: String,
    public val files: Map<String, FileEntry>,
    public val confidence: ConfidenceSpec?,
    public val raw: Map<String, Any?>,
) {
    /** Whether a dual encoder reads photo and text together. */
    internal val hasComposedGraph: Boolean get() = graphs.values.any { COMPOSED in it }
}

internal const val DUAL_ENCODER: String = "dual_encoder"
internal const val VISION_LANGUAGE: String = "vision_language"

/** Name of the part of a dual encoder, and of the role, that read photo and text together. */
internal const val COMPOSED: String = "composed"
