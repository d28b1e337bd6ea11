package dev.magicmm

/** A photo that a source has, with the stamp that tells whether it changed. */
public data class PhotoRef(val uri: String, val stamp: Stamp)

/**
 * The difference between a source now and what is known of it.
 *
 * @property new Photos not known yet.
 * @property changed Known photos with another stamp.
 * @property removed URIs of known photos that are gone for certain.
 * @property unchanged How many known photos are as they were.
 * @property unavailable Places that could not be looked at; nothing below them is reported as removed.
 */
public data class Changes(
    val new: List<PhotoRef> = emptyList(),
    val changed: List<PhotoRef> = emptyList(),
    val removed: List<String> = emptyList(),
    val unchanged: Int = 0,
    val unavailable: List<String> = emptyList(),
)

/**
 * The bytes of one photo as they were read.
 *
 * @property data The file.
 * @property stamp Size and time, taken before the bytes: a change meanwhile shows at the next look.
 * @property hash The hash of [data].
 */
public class PhotoFile(
    public val data: ByteArray,
    public val stamp: Stamp,
    public val hash: ContentHash = ContentHash.of(data),
)

/** A place that holds photos. It says what changed and hands out bytes; it knows nothing of models or indexes. */
public interface PhotoSource {
    /** What identifies the source in the index; the URIs of its photos begin with it. Ends in "/". */
    public val uri: String

    /** Compares the source with the stamps in [known]; URIs of [allKnown] without a stamp count as changed. */
    public fun changes(known: Map<String, Stamp>, allKnown: Set<String>): Changes

    /**
     * Reads one photo; called from several threads.
     *
     * @throws PhotoSkipped When it cannot be read.
     */
    public fun load(uri: String): PhotoFile
}
