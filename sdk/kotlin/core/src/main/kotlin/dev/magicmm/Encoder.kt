package dev.magicmm

import java.util.concurrent.locks.ReentrantReadWriteLock
import kotlin.concurrent.read
import kotlin.concurrent.write

/** What [Embedder] needs of an architecture. Vectors have length 1. */
internal interface Encoder {
    /** Views or tiles of a photo; runs without the model, in any thread. */
    fun prepare(rgb: RgbImage, role: Role): Pixels

    /** One vector a photo. */
    fun encodeImages(pixels: List<Pixels>, role: Role): List<FloatArray>

    fun encodeText(text: String, role: Role, truncate: Boolean): FloatArray

    /** One vector for photo and text together. */
    fun encodeComposed(text: String, pixels: Pixels, role: Role, truncate: Boolean): FloatArray

    /** The whole sequence of ids for a text alone. */
    fun tokenIds(text: String, role: Role): List<Int>

    /** Give the memory of the graphs back that only photos need, alone or with words. */
    fun releaseImages()

    /** Give the memory of all graphs back; the next call loads what it needs again. */
    fun release()
}

/** The encoder for the bundle's architecture; loads nothing yet. */
internal fun makeEncoder(bundle: Bundle, sessions: SessionFactory): Encoder {
    val parts = Parts(bundle, sessions)
    return if (bundle.manifest.architecture == DUAL_ENCODER) DualEncoder(parts) else VisionLanguageEncoder(parts)
}

/** The lazily opened parts of a bundle, shared by threads. */
internal class Parts(val bundle: Bundle, private val sessions: SessionFactory) {
    val manifest: Manifest = bundle.manifest

    /** Held to read while a graph runs: [release] waits, because a runtime does not survive losing a graph under way. */
    private val inUse = ReentrantReadWriteLock()
    private val opening = Any()
    private val opened = HashMap<String, Session>()
    private var tokenizer: Tokenizer? = null

    /** The first output of a graph, or the one that is named; the graph is loaded when it is not there. */
    fun run(part: String, inputs: Map<String, Tensor>, output: String? = null): Tensor.Floats =
        inUse.read { session(part).run(inputs, output) }

    private fun session(part: String): Session =
        synchronized(opening) { opened.getOrPut(part) { openSession(bundle, part, sessions) } }

    /** The graphs that are in memory. */
    fun loaded(): Set<String> = synchronized(opening) { opened.keys.toSet() }

    /** Give back some graphs. */
    fun release(parts: List<String>) {
        inUse.write { synchronized(opening) { parts.forEach { opened.remove(it)?.close() } } }
    }

    /** Give back everything. */
    fun release() {
        inUse.write {
            synchronized(opening) {
                opened.values.forEach { it.close() }
                opened.clear()
                tokenizer = null
            }
        }
    }

    /** The whole sequence of ids for a text alone. */
    fun tokenIds(text: String, role: Role, truncate: Boolean): List<Int> =
        role.head + textIds(text, role, role.head.size + role.tail.size, truncate) + role.tail

    /** The ids of the role's text line, at most `maxTokens` less what else the sequence holds. */
    fun textIds(text: String, role: Role, reserved: Int, truncate: Boolean): List<Int> {
        val ids = tokenizer().encode(role.text.replace("{text}", checkText(text)))
        return fitTokens(ids, manifest.text.maxTokens - reserved, truncate)
    }

    private fun tokenizer(): Tokenizer = synchronized(opening) {
        tokenizer ?: Tokenizer.load(bundle.file(manifest.text.tokenizer)).also { tokenizer = it }
    }
}
