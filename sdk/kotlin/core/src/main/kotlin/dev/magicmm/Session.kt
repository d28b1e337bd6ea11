package dev.magicmm

import java.nio.file.Path

/** What goes into a graph and comes out of it: numbers, row-major. Values are kept and not copied. */
public sealed class Tensor {
    /** Length of each axis. */
    public abstract val shape: List<Int>

    /**
     * Bytes from 0 to 255.
     *
     * @property values As signed bytes.
     */
    public class Bytes(override val shape: List<Int>, public val values: ByteArray) : Tensor()

    /** int64. */
    public class Longs(override val shape: List<Int>, public val values: LongArray) : Tensor()

    /** float32. */
    public class Floats(override val shape: List<Int>, public val values: FloatArray) : Tensor()
}

/**
 * A graph that is allowed to be opened: every file that it reads belongs to its bundle.
 *
 * @property path The ONNX file; its external data lie beside it.
 * @property weights What the file declares and does not store; null for most graphs.
 */
public class Graph internal constructor(public val path: Path, public val weights: PackedWeights?)

/** One loaded graph: named tensors in, one of its float32 tensors out. */
public interface Session : AutoCloseable {
    /**
     * The graph's first output, or the one that is named. May be called from several threads.
     *
     * @throws MagicError `runtime_failed` with what the runtime said.
     */
    public fun run(inputs: Map<String, Tensor>, output: String? = null): Tensor.Floats

    /** Give the memory back; called once, when no `run` is under way. */
    override fun close()
}

/** What loads graphs: `OrtSessions` of the module `ort`, or another inference runtime for ONNX files. */
public fun interface SessionFactory {
    /**
     * Load a graph. May be called from several threads.
     *
     * @throws MagicError `runtime_failed` when the runtime refuses it.
     */
    public fun open(graph: Graph): Session
}
