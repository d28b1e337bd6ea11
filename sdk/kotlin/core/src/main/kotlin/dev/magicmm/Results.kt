package dev.magicmm

/**
 * Something that the words of a query say of time or place.
 *
 * @property kind "time" (of day), "season", "month", "year" or "place".
 * @property words The words that say so, in small letters and without accents.
 */
public data class Signal(val kind: String, val words: String)

/**
 * One photo found.
 *
 * @property id The photo's id in the index; stays the same when the file moves or is edited.
 * @property uri Where the photo is, percent-encoded ASCII.
 * @property score Cosine between the query and the photo, -1 to 1.
 * @property taken The camera's wall clock in seconds since 1970-01-01 00:00 of that clock, or null.
 * @property width Pixels of the upright photo; 0 when unknown.
 * @property height Pixels of the upright photo; 0 when unknown.
 * @property signals By kind of [Results.signals]: 1.0 when the photo's EXIF fits the words, 0.0 when it differs; a kind is
 *   missing when EXIF does not tell.
 */
public data class Match(
    val id: Long,
    val uri: String,
    val score: Float,
    val taken: Double?,
    val width: Int,
    val height: Int,
    val signals: Map<String, Double> = emptyMap(),
)

/**
 * Matches, best first, equal scores by id; and out of how many photos they were chosen. Best is the highest score +
 * [signalWeight] x the sum of the photo's signals.
 *
 * @property matches At most k; exactly k whenever k photos pass filter and least score.
 * @property searched Photos that passed the filter.
 * @property taught Taught concepts that the text named; their photos were part of the query.
 * @property confidence Probability that the first match fits the words, 0 to 1; null where it is not known.
 * @property isDoubtful Whether that is so low that probably nothing matches.
 * @property signals What the words say of time and place.
 * @property signalWeight What a signal counts in the ranking, as a cosine; 0 without signals.
 */
public data class Results(
    val matches: List<Match>,
    val searched: Int,
    val taught: List<String> = emptyList(),
    val confidence: Double? = null,
    val isDoubtful: Boolean = false,
    val signals: List<Signal> = emptyList(),
    val signalWeight: Double = 0.0,
)

/** A photo that is not in the index, and why; [detail] is for people. */
public data class Skip(val uri: String, val reason: SkipReason, val detail: String)

/**
 * What the next sync would do; nothing was changed to find out.
 *
 * @property new Files not seen before (some may turn out to be moved photos, which need no model).
 * @property changed Files that differ from what was indexed, or that failed for a passing reason.
 * @property removed Indexed photos whose file is gone.
 * @property unchanged Photos that need nothing.
 * @property seconds Estimate from the last sync's rate; null when there was none.
 * @property unavailable Folders that cannot be read now; their photos are left alone.
 */
public data class Plan(
    val new: Int,
    val changed: Int,
    val removed: Int,
    val unchanged: Int,
    val seconds: Double?,
    val unavailable: List<String>,
)

/**
 * One committed step of a sync. Everything counted here is already on disk.
 *
 * @property done Files dealt with, of [total].
 * @property total Files that were new or changed.
 * @property embedded Photos that went through the model.
 * @property reused Moved, copied or merely touched photos that kept their vector.
 * @property removed Photos whose file is gone.
 * @property skipped Photos that could not be indexed.
 * @property rate Files a second since the start.
 * @property etaSeconds Estimated rest; null until there is a rate.
 * @property skips The skipped photos of this step.
 * @property unavailable Folders that cannot be read; their photos were left alone.
 */
public data class Progress(
    val done: Int,
    val total: Int,
    val embedded: Int,
    val reused: Int,
    val removed: Int,
    val skipped: Int,
    val rate: Double,
    val etaSeconds: Double?,
    val skips: List<Skip> = emptyList(),
    val unavailable: List<String> = emptyList(),
)

/**
 * What is in an index.
 *
 * @property indexPath The file.
 * @property indexBytes Bytes of the file and of the scan file beside it.
 * @property model Name of the active model; null, like the next two, while there is none.
 * @property fingerprint What its vectors depend on, 64 hex digits.
 * @property dim Length of its vectors.
 * @property indexed Photos that a search looks at.
 * @property skipped Photos that are not in the index, and why.
 * @property sources URIs of the known sources.
 * @property rebuilding Name of the model that a rebuild is filling in.
 * @property rebuilt Photos that the rebuild has done.
 */
public data class Status(
    val indexPath: String,
    val indexBytes: Long,
    val model: String?,
    val fingerprint: String?,
    val dim: Int?,
    val indexed: Int,
    val skipped: List<Skip>,
    val sources: List<String>,
    val rebuilding: String? = null,
    val rebuilt: Int = 0,
)

/**
 * Photos that show the same.
 *
 * @property kind "same_bytes" or "look_alike".
 * @property photos Two or more, by id; `score` is the cosine to the first.
 */
public data class DuplicateGroup(val kind: String, val photos: List<Match> = emptyList())
