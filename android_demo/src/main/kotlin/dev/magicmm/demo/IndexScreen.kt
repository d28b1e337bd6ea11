package dev.magicmm.demo

import android.content.Context
import android.content.res.ColorStateList
import android.view.View
import android.widget.CheckBox
import android.widget.ProgressBar
import dev.magicmm.Progress
import dev.magicmm.android.IndexingState
import dev.magicmm.android.PhotoAccess
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.collectLatest
import kotlinx.coroutines.launch

/** How indexing goes, why it waits, and what was left out. */
class IndexScreen(context: Context, private val host: Host) : Screen {
    private val look = Look(context)
    private val headline = look.body(Words.INDEX_HINT)
    private val count = look.body("")
    private val rate = look.note("")
    private val reason = look.note("")
    private val bar =
        ProgressBar(context, null, android.R.attr.progressBarStyleHorizontal).apply {
            progressTintList = ColorStateList.valueOf(look.accent)
        }
    private val act = look.button("Index now", ::toggle)
    private val override =
        CheckBox(context).apply {
            text = Words.OVERRIDE
            textSize = 14f
            buttonTintList = ColorStateList.valueOf(look.accent)
            setTextColor(look.ink)
            setOnCheckedChangeListener { _, isOn -> host.app.openedServices?.indexer?.governor?.isOverridden = isOn }
        }
    private val skipped = look.note("")
    private var watching: Job? = null
    private var state: IndexingState = IndexingState.Idle

    override val view: View = look.column(
        look.title(
            "Index",
        ),
        headline, bar, count, rate, reason, act, override, skipped,
    )

    override fun refresh() {
        host.launchWithServices(::showError) { services ->
            if (watching == null) watch(services)
            show(services.indexer.state.value)
            showStatus(services)
        }
    }

    private fun watch(services: Services) {
        override.isChecked = services.indexer.governor.isOverridden
        watching =
            host.scope.launch {
                services.indexer.state.collectLatest {
                    show(it)
                    if (it is IndexingState.Finished || it is IndexingState.Stopped) showStatus(services)
                }
            }
    }

    /** The index was deleted: the next refresh looks at the new one. */
    fun forget() {
        watching?.cancel()
        watching = null
        show(IndexingState.Idle)
    }

    private fun toggle() {
        host.launchWithServices(::showError) { services ->
            val governor = services.indexer.governor
            when (state) {
                is IndexingState.Running, is IndexingState.Paused -> governor.isPausedByUser = !governor.isPausedByUser

                else -> {
                    governor.isPausedByUser = false
                    services.indexer.start()
                }
            }
            if (governor.isPausedByUser) act.text = "Go on"
        }
    }

    private fun show(shown: IndexingState) {
        state = shown
        act.isEnabled = host.access != PhotoAccess.NONE
        act.alpha = if (act.isEnabled) 1f else 0.4f
        explain("")
        when (shown) {
            is IndexingState.Idle -> show("Not indexing.", null, "Index now")

            is IndexingState.Running -> show("Indexing …", shown.progress, "Pause")

            is IndexingState.Paused -> {
                val isByUser = host.app.openedServices?.indexer?.governor?.isPausedByUser == true
                show("Paused", shown.progress, if (isByUser) "Go on" else "Pause")
                explain(shown.pauses.joinToString("\n") { it.text })
            }

            is IndexingState.Finished -> show("Up to date.", shown.progress, "Look again")

            is IndexingState.Stopped -> show("Stopped; goes on where it was.", null, "Go on")

            is IndexingState.Failed -> {
                show("Indexing failed.", null, "Try again")
                explain(shown.error.toString())
            }
        }
        if (!act.isEnabled) explain(Words.access(PhotoAccess.NONE))
    }

    private fun explain(text: String) {
        reason.text = text
        reason.visibility = if (text.isEmpty()) View.GONE else View.VISIBLE
    }

    private fun show(text: String, progress: Progress?, action: String) {
        headline.text = text
        act.text = action
        for (part in listOf(bar, count, rate)) part.visibility = if (progress == null) View.GONE else View.VISIBLE
        if (progress == null) return
        bar.max = maxOf(1, progress.total)
        bar.progress = if (progress.total == 0) 1 else progress.done
        count.text = if (progress.total == 0) "Nothing new." else Words.count(progress)
        rate.text = Words.rate(progress)
        if (progress.done == 0) rate.visibility = View.GONE
    }

    private suspend fun showStatus(services: Services) {
        val status = services.photos.status()
        skipped.text = "${status.indexed} photos can be found. ${Words.skipped(status.skipped.map { it.reason })}"
    }

    private fun showError(said: String) {
        headline.text = said
    }
}
