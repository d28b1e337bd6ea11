package dev.magicmm.conformance

import dev.magicmm.Bundle
import dev.magicmm.Embedder
import dev.magicmm.ort.OrtSessions
import java.nio.file.Paths

/** Cases of `embed.json`, which the comparator writes: a query of text, photo or both to a bundle on this machine. */
internal class EmbedCases {
    private val embedders = HashMap<String, Embedder>()

    fun run(case: Case): Any {
        val given = case.inner("input")
        val embedder =
            embedders.getOrPut(given.text("bundle")) {
                Embedder.open(Bundle.load(Paths.get(given.text("bundle"))), OrtSessions(threads = 1))
            }
        return when (val operation = given.text("operation")) {
            "verify" ->
                embedder.bundle.verify(OrtSessions(threads = 1)).let { report ->
                    mapOf(
                        "passes" to report.passes,
                        "least_cosine" to report.leastCosine,
                        "cases" to report.checks.size,
                    )
                }

            "query" -> {
                val text = if ("text" in given) given.text("text") else null
                val image = if ("image" in given) given.inner("image").rgb() else null
                numbers(embedder.embedQuery(text, image, truncate = true))
            }

            "document" -> numbers(embedder.embedImage(given.inner("image").rgb(), given.text("role")))

            "photos" -> embedder.embedImages(given.list("images").map { caseOf(it).rgb() }).map(::numbers)

            else -> throw IllegalArgumentException("Unknown operation $operation.")
        }
    }

    private fun numbers(vector: FloatArray): List<Double> = vector.map { it.toDouble() }
}
