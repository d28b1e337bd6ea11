package dev.magicmm.demo

import android.app.AlertDialog
import android.content.Context
import android.content.res.ColorStateList
import android.view.View
import android.widget.Switch
import dev.magicmm.android.IndexJobs
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext

/** Which model, how large it all is, the background job, and how to get rid of the index. */
class SettingsScreen(private val context: Context, private val host: Host, private val onDeleted: () -> Unit) :
    Screen {
    private val look = Look(context)
    private val model = look.body("")
    private val vectors = look.body("")
    private val modelSize = look.body("")
    private val indexSize = look.body("")
    private val photos = look.body("")
    private val licence = look.body("")
    private val said = look.note("")
    private val background =
        Switch(context).apply {
            text = Words.BACKGROUND
            textSize = 16f
            setTextColor(look.ink)
            thumbTintList = ColorStateList.valueOf(look.accent)
            setOnClickListener { plan(isChecked) }
        }

    override val view: View =
        look.column(
            look.title("Settings"),
            look.fact("Model", model),
            look.fact("Vectors", vectors),
            look.fact("Model size", modelSize),
            look.fact("Licence", licence),
            look.fact("Photos", photos),
            look.fact("Index size", indexSize),
            background,
            look.plainButton(Words.DELETE, ::confirm),
            said,
        )

    override fun refresh() {
        background.isChecked = IndexJobs.isScheduled(context)
        host.launchWithServices({ said.text = it }) { services ->
            val manifest = services.bundle.manifest
            val status = services.photos.status()
            model.text = manifest.id
            vectors.text = "${manifest.dim} numbers, one byte each"
            modelSize.text = Words.size(services.bundle.totalBytes)
            indexSize.text = Words.size(status.indexBytes)
            photos.text = "${status.indexed} indexed, ${status.skipped.size} skipped"
            licence.text = manifest.raw["licence"]?.toString().orEmpty()
            said.text = ""
        }
    }

    private fun plan(isOn: Boolean) {
        if (isOn) IndexJobs.schedule(context, DemoJobService::class.java) else IndexJobs.cancel(context)
        background.isChecked = IndexJobs.isScheduled(context)
    }

    private fun confirm() {
        AlertDialog.Builder(context)
            .setMessage(Words.DELETE_ASK)
            .setNegativeButton(android.R.string.cancel, null)
            .setPositiveButton(Words.DELETE) { _, _ -> delete() }
            .show()
    }

    private fun delete() {
        host.launchWithServices({ said.text = it }) { services ->
            onDeleted()
            withContext(Dispatchers.IO) { host.app.deleteIndex(services) }
            refresh()
        }
    }
}
