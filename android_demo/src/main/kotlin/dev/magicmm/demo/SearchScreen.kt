package dev.magicmm.demo

import android.content.Context
import android.text.InputType
import android.view.View
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.inputmethod.EditorInfo
import android.view.inputmethod.InputMethodManager
import android.widget.EditText
import android.widget.GridView
import android.widget.LinearLayout
import dev.magicmm.Match
import dev.magicmm.Results
import java.util.Locale

/** Words in, photos with scores out; a long press asks for similar ones. */
class SearchScreen(private val context: Context, private val host: Host) : Screen {
    private val look = Look(context)
    private val grid = PhotoGrid(context, host.scope)

    /** What to look for. */
    val words =
        EditText(context).apply {
            hint = Words.SEARCH_HINT
            textSize = 18f
            setTextColor(look.ink)
            setHintTextColor(look.faint)
            inputType = InputType.TYPE_CLASS_TEXT
            imeOptions = EditorInfo.IME_ACTION_SEARCH
            background = look.rounded(look.card, look.faint)
            setPadding(look.dp(12), look.dp(12), look.dp(12), look.dp(12))
            setOnEditorActionListener { _, _, _ -> search().let { true } }
        }
    private val said = look.note(Words.LONG_PRESS)
    private val photos =
        GridView(context).apply {
            numColumns = 3
            horizontalSpacing = look.dp(4)
            verticalSpacing = look.dp(4)
            adapter = grid
            setOnItemClickListener { _, _, place, _ -> host.view(grid.getItem(place).uri) }
            setOnItemLongClickListener { _, _, place, _ -> similar(grid.getItem(place)).let { true } }
        }

    override val view: View =
        look.column(words, said).apply {
            addView(photos, LinearLayout.LayoutParams(MATCH_PARENT, 0, 1f))
            setPadding(look.dp(12), look.dp(12), look.dp(12), 0)
        }

    override fun refresh(): Unit = Unit

    /** Searches for the words. */
    fun search() {
        val text = words.text.toString()
        if (text.isBlank()) return
        context.getSystemService(InputMethodManager::class.java)?.hideSoftInputFromWindow(words.windowToken, 0)
        host.launchWithServices(::fail) { services ->
            show("${Words.FOUND}: ") { services.photos.search(text, k = MOST, truncate = true) }
        }
    }

    private fun similar(match: Match) {
        words.text.clear()
        host.launchWithServices(::fail) { services ->
            show("${Words.SIMILAR}: ") { services.photos.similar(match.id, k = MOST) }
        }
    }

    private suspend fun show(before: String, ask: suspend () -> Results) {
        val started = System.nanoTime()
        val results = ask()
        val seconds = String.format(Locale.ROOT, "%.2f", (System.nanoTime() - started) / 1e9)
        said.text =
            "${before}the best ${results.matches.size} of ${results.searched} photos, $seconds\u00A0s. ${Words.LONG_PRESS}"
        grid.show(results.matches)
        photos.smoothScrollToPosition(0)
    }

    private fun fail(text: String) {
        said.text = text
        grid.show(emptyList())
    }

    private companion object {
        const val MOST = 60
    }
}
