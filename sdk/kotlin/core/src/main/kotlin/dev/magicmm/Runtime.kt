package dev.magicmm

import java.io.IOException

private const val ONNX = "onnx"
private const val LEAST_LENGTH = 1e-6

/**
 * Load one graph of a bundle.
 *
 * @param part "vision", "language", "image", "text" or "composed".
 * @throws MagicError `runtime_failed` for a bundle without ONNX graphs, and when the runtime refuses the graph;
 *   `bundle_invalid` for a graph that reads a file which the manifest does not list, and for packed weights that are
 *   broken or are not those that the graph declares.
 */
internal fun openSession(bundle: Bundle, part: String, sessions: SessionFactory): Session {
    val graphs = bundle.manifest.graphs
    val name =
        graphs[ONNX]?.get(part) ?: throw MagicError(
            ErrorCode.RUNTIME_FAILED,
            "Runtime '$ONNX' cannot run ${bundle.path}: its graphs are for ${graphs.keys.sorted().joinToString()}.",
            "Export the bundle with --runtime onnx.",
        )
    val tensors = checkedTensors(bundle, name)
    val packed = bundle.manifest.packed[ONNX]?.get(part)
    val weights =
        packed?.let { file ->
            val declared = tensors.filter { tensor -> tensor.all("location").any { beside(name, it) == file } }
            PackedWeights(bundle.file(file), unstoredShapes(name, declared))
        }
    return sessions.open(Graph(bundle.file(name), weights))
}

/** The tensors that a graph keeps in other files, all of which the bundle lists. */
private fun checkedTensors(bundle: Bundle, name: String): List<ExternalTensor> {
    val path = bundle.file(name)
    val tensors =
        try {
            externalTensors(path)
        } catch (error: IOException) {
            throw noGraph(path.toString(), error)
        } catch (error: OnnxError) {
            throw noGraph(path.toString(), error)
        }
    for (tensor in tensors) tensor.all("location").forEach { bundle.file(beside(name, it)) }
    return tensors
}

private fun noGraph(path: String, error: Exception): MagicError =
    MagicError(ErrorCode.RUNTIME_FAILED, "$path is no ONNX graph: ${saidBy(error)}.", "Verify the bundle.", error)

/** The name in the bundle of a file that a graph names; one with `..` in it is listed in no bundle. */
private fun beside(graph: String, location: String): String {
    if (location.startsWith("/")) return location
    val parts = graph.substringBeforeLast('/', "").split('/') + location.split('/')
    return parts.filter { it.isNotEmpty() && it != "." }.joinToString("/")
}

/** The shapes of a graph's packed tensors by name; each must be one that runtimes let us supply. */
private fun unstoredShapes(graph: String, declared: List<ExternalTensor>): Map<String, List<Long>> {
    for (tensor in declared) {
        val isUnstored =
            tensor.isInitializer &&
                tensor.dataType == ONNX_INT8 &&
                tensor.all("location").size == 1 &&
                tensor.all("offset") == listOf(UNSTORED_OFFSET.toString())
        if (!isUnstored) throw bundleInvalid("$graph does not declare '${tensor.name}' as packed weights must be.")
    }
    val shapes = declared.associate { it.name to it.shape }
    if (shapes.size < declared.size) throw bundleInvalid("$graph declares packed weights of one name twice.")
    return shapes
}

/**
 * Rows of length 1 from what a graph gave; a wrong graph is named here and not three layers later.
 *
 * @throws MagicError `runtime_failed` for another shape than [count] x [dim], and for NaN, infinite and zero rows, which
 *   never leave the SDK.
 */
internal fun unitVectors(output: Tensor.Floats, count: Int, dim: Int, what: String): List<FloatArray> {
    if (output.shape != listOf(count, dim)) {
        throw MagicError(
            ErrorCode.RUNTIME_FAILED,
            "The $what graph gave ${output.shape}, not ${listOf(count, dim)}.",
            "Verify the bundle.",
        )
    }
    return List(count) { row -> unit(output.values.copyOfRange(row * dim, (row + 1) * dim), what) }
}

/** [vector] divided by its length, in place; see [unitVectors]. */
internal fun unit(vector: FloatArray, what: String): FloatArray {
    val length = Math.sqrt(vector.sumOf { it.toDouble() * it })
    if (!(length > LEAST_LENGTH && length < Double.POSITIVE_INFINITY)) {
        throw MagicError(
            ErrorCode.RUNTIME_FAILED,
            "The $what graph gave a vector that has no direction.",
            "Verify the bundle.",
        )
    }
    for (place in vector.indices) vector[place] = (vector[place] / length).toFloat()
    return vector
}
