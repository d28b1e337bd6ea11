package dev.magicmm.ort

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import dev.magicmm.ErrorCode
import dev.magicmm.Graph
import dev.magicmm.MagicError
import dev.magicmm.PackedWeights
import dev.magicmm.Session
import dev.magicmm.SessionFactory
import dev.magicmm.Tensor
import dev.magicmm.saidBy
import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.nio.LongBuffer
import java.util.concurrent.CopyOnWriteArrayList

/**
 * What may run a graph, or parts of it, besides ONNX Runtime's own kernels. Which of them are there depends on the build of
 * the library and on the device.
 */
public enum class ExecutionProvider {
    /** Kernels for float32 on ARM and x86. */
    XNNPACK,

    /** Android's interface to its accelerators; deprecated since Android 15. */
    NNAPI,

    /** Qualcomm's HTP; needs the `onnxruntime-android-qnn` build. */
    QNN,

    /** ONNX Runtime's kernels; every device has them. */
    CPU,
}

/**
 * A provider that did not take a graph.
 *
 * @property provider Which one.
 * @property graph File name of the graph.
 * @property reason What the runtime said.
 */
public data class Refusal(public val provider: ExecutionProvider, public val graph: String, public val reason: String)

/**
 * Graphs on ONNX Runtime. The same source serves `onnxruntime` on the JVM and `onnxruntime-android` on phones. Thread-safe.
 *
 * @property threads Threads of each graph; 0 = one for each physical core.
 * @property providers What to try, in this order; the first that takes a graph runs it. Without [ExecutionProvider.CPU] in
 *   the list, a graph that all refuse is `runtime_failed`.
 * @throws MagicError `argument_invalid` for negative threads and for no provider.
 */
public class OrtSessions @JvmOverloads constructor(
    public val threads: Int = 0,
    public val providers: List<ExecutionProvider> = listOf(ExecutionProvider.CPU),
) : SessionFactory {
    private val refused = CopyOnWriteArrayList<Refusal>()

    /** What was tried in vain for the graphs opened so far; a graph may run all the same, on a later provider. */
    public val refusals: List<Refusal> get() = refused.toList()

    init {
        if (threads < 0) {
            throw MagicError(ErrorCode.ARGUMENT_INVALID, "threads is $threads.", "Use 0 (all cores) or more.")
        }
        if (providers.isEmpty()) {
            throw MagicError(ErrorCode.ARGUMENT_INVALID, "providers is empty.", "Name at least CPU.")
        }
    }

    /**
     * Load a graph; its external data are read from beside the file.
     *
     * @throws MagicError `runtime_failed` with what each provider said, when none takes it; `bundle_invalid` for broken
     *   packed weights.
     */
    override fun open(graph: Graph): Session {
        val failed = ArrayList<Refusal>()
        for (provider in providers) {
            val reason =
                try {
                    return open(graph, provider)
                } catch (error: OrtException) {
                    saidBy(error)
                } catch (error: LinkageError) { // no native library for this system
                    saidBy(error)
                }
            failed.add(Refusal(provider, graph.path.fileName.toString(), reason))
            refused.addIfAbsent(failed.last())
        }
        val said = failed.joinToString("; ") { "${it.provider}: ${it.reason}" }
        throw runtimeFailed("onnxruntime refuses ${graph.path}: $said")
    }

    private fun open(graph: Graph, provider: ExecutionProvider): Session {
        val environment = OrtEnvironment.getEnvironment()
        return OrtSession.SessionOptions().use { options ->
            options.setIntraOpNumThreads(threads)
            options.setInterOpNumThreads(1)
            options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL)
            // Idle threads that spin would take the cores from whoever decodes the next photos.
            options.addConfigEntry("session.intra_op.allow_spinning", "0")
            when (provider) {
                ExecutionProvider.XNNPACK -> options.addXnnpack(emptyMap())
                ExecutionProvider.NNAPI -> options.addNnapi()
                ExecutionProvider.QNN -> options.addQnn(emptyMap())
                ExecutionProvider.CPU -> Unit // always there
            }
            supplied(graph.weights, environment) { weights ->
                if (weights.isNotEmpty()) options.addExternalInitializers(weights)
                LoadedGraph(environment, environment.createSession(graph.path.toString(), options))
            }
        }
    }
}

/** Run [use] with packed weights as tensors outside of the heap; the runtime copies them. */
private fun <T> supplied(
    weights: PackedWeights?,
    environment: OrtEnvironment,
    use: (Map<String, OnnxTensor>) -> T,
): T {
    val tensors = LinkedHashMap<String, OnnxTensor>()
    try {
        weights?.names?.forEach { name ->
            val matrix = weights.read(name)
            val shape = longArrayOf(matrix.rows.toLong(), matrix.columns.toLong())
            val buffer = ByteBuffer.wrap(matrix.values)
            tensors[name] = OnnxTensor.createTensor(environment, buffer, shape, OnnxJavaType.INT8)
        }
        return use(tensors)
    } finally {
        tensors.values.forEach { it.close() }
    }
}

private class LoadedGraph(private val environment: OrtEnvironment, private val session: OrtSession) : Session {
    private val first = session.outputNames.first()

    override fun run(inputs: Map<String, Tensor>, output: String?): Tensor.Floats {
        val asked = output ?: first
        val tensors = LinkedHashMap<String, OnnxTensor>()
        try {
            for ((name, tensor) in inputs) tensors[name] = onnxTensor(tensor)
            return session.run(tensors, setOf(asked)).use { floats(asked, it.get(0) as? OnnxTensor) }
        } catch (error: OrtException) {
            throw runtimeFailed("onnxruntime failed: ${saidBy(error)}", error)
        } finally {
            tensors.values.forEach { it.close() }
        }
    }

    override fun close(): Unit = session.close()

    private fun onnxTensor(tensor: Tensor): OnnxTensor {
        val shape = LongArray(tensor.shape.size) { tensor.shape[it].toLong() }
        return when (tensor) {
            is Tensor.Bytes ->
                OnnxTensor.createTensor(environment, ByteBuffer.wrap(tensor.values), shape, OnnxJavaType.UINT8)

            is Tensor.Longs -> OnnxTensor.createTensor(environment, LongBuffer.wrap(tensor.values), shape)

            is Tensor.Floats -> OnnxTensor.createTensor(environment, FloatBuffer.wrap(tensor.values), shape)
        }
    }

    private fun floats(output: String, tensor: OnnxTensor?): Tensor.Floats {
        val buffer = tensor?.floatBuffer ?: throw runtimeFailed("onnxruntime failed: $output is no float32 tensor")
        val values = FloatArray(buffer.remaining())
        buffer.get(values)
        return Tensor.Floats(tensor.info.shape.map { it.toInt() }, values)
    }
}

private fun runtimeFailed(message: String, cause: Throwable? = null): MagicError =
    MagicError(ErrorCode.RUNTIME_FAILED, "$message.", "Verify the bundle.", cause)
