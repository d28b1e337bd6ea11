package dev.magicmm.conformance

import com.google.gson.JsonObject
import dev.magicmm.Budget
import dev.magicmm.Concept
import dev.magicmm.ConfidenceSpec
import dev.magicmm.DuplicateGroup
import dev.magicmm.FolderSource
import dev.magicmm.Gallery
import dev.magicmm.Progress
import dev.magicmm.Results
import dev.magicmm.Skip
import dev.magicmm.jvm.open
import dev.magicmm.nameKey
import dev.magicmm.splitNames
import java.nio.file.Paths
import java.util.Base64

/**
 * Commands on an index, each opened and closed again: `verb`, `index`, `name` and `fingerprint` of the model, and what
 * the verb takes.
 */
internal class GalleryCommands {
    fun run(command: JsonObject): Any? {
        val spec = command.value("confidence")?.asJsonObject?.let(::confidenceOf)
        val embedder = PixelSums(command.text("name"), command.text("fingerprint"), spec)
        val sources = command.value("photos")?.asJsonArray?.map { FolderSource(Paths.get(it.asString)) }.orEmpty()
        return Gallery.open(embedder, sources, Paths.get(command.text("index"))).use { gallery ->
            when (val verb = command.text("verb")) {
                "sync" -> facts(gallery.sync(budgetOf(command)))

                "rebuild" -> facts(gallery.rebuild(budgetOf(command)))

                "search" -> facts(search(gallery, command))

                "similar" -> facts(similar(gallery, command))

                "duplicates" -> gallery.duplicates(command.number("min_score")).map(::facts)

                "teach" -> facts(
                    gallery.teach(
                        command.text("taught"),
                        command.value("images")?.asJsonArray?.map { Base64.getDecoder().decode(it.asString) }.orEmpty(),
                        command.value("ids")?.asJsonArray?.map { it.asLong }.orEmpty(),
                        command.value("noun")?.asString,
                    ),
                )

                "taught" -> gallery.taught().map(::facts)

                "forget" -> gallery.forget(command.text("what"))

                "split" -> splitNames(command.text("text"), command["names"].asJsonArray.map { nameKey(it.asString) })
                    .let { listOf(it.keys.map { key -> key.joinToString(" ") }, it.rest) }

                "status" -> gallery.status().let {
                    mapOf("indexed" to it.indexed, "sources" to it.sources, "skipped" to it.skipped.map(::facts))
                }

                else -> error("there is no verb $verb")
            }
        }
    }

    private fun search(gallery: Gallery, command: JsonObject): Results = gallery.search(
        text = command.value("text")?.asString,
        image = command.value("image")?.asString?.let(Base64.getDecoder()::decode),
        k = command["k"].asInt,
        minScore = command.number("min_score"),
        where = whereOf(command),
        signals = command.value("signals")?.asBoolean ?: true,
    )

    private fun similar(gallery: Gallery, command: JsonObject): Results =
        gallery.similar(command["id"].asLong, command["k"].asInt, command.number("min_score"), whereOf(command))

    private fun whereOf(command: JsonObject) = command.value("where")?.asJsonObject?.let(::filterOf)

    private fun budgetOf(command: JsonObject) = Budget(files = command.value("files")?.asInt)

    private fun confidenceOf(given: JsonObject) = ConfidenceSpec(
        given["quantile"].asDouble,
        given["intercept"].asDouble,
        given["excess"].asDouble,
        given["log_photos"].asDouble,
        given["least_photos"].asInt,
        given["threshold"].asDouble,
    )

    private fun facts(results: Results): Map<String, Any?> = mapOf(
        "matches" to results.matches.map {
            listOf(it.id, it.uri, it.score.toDouble(), it.taken, it.width, it.height, it.signals)
        },
        "searched" to results.searched,
        "taught" to results.taught,
        "confidence" to results.confidence,
        "is_doubtful" to results.isDoubtful,
        "signals" to results.signals.map { listOf(it.kind, it.words) },
        "signal_weight" to results.signalWeight,
    )

    private fun facts(concept: Concept): List<Any?> =
        listOf(concept.name, concept.noun, concept.examples, concept.stale, concept.uris)

    private fun facts(progress: Progress): Map<String, Int> = mapOf(
        "done" to progress.done,
        "total" to progress.total,
        "embedded" to progress.embedded,
        "reused" to progress.reused,
        "removed" to progress.removed,
        "skipped" to progress.skipped,
    )

    private fun facts(group: DuplicateGroup): Map<String, Any?> =
        mapOf("kind" to group.kind, "photos" to group.photos.map { listOf(it.id, it.uri, it.score.toDouble()) })

    private fun facts(skip: Skip): List<String> = listOf(skip.uri, skip.reason.value)
}
