package dev.magicmm.demo

import android.content.Context
import android.graphics.Color
import android.view.Gravity
import android.view.View
import android.view.ViewGroup
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.ViewGroup.LayoutParams.WRAP_CONTENT
import android.widget.BaseAdapter
import android.widget.FrameLayout
import android.widget.ImageView
import android.widget.TextView
import dev.magicmm.Match
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.launch

/** Square pictures, each with its score. */
class PhotoGrid(private val context: Context, private val scope: CoroutineScope) : BaseAdapter() {
    private val look = Look(context)
    private val thumbnails = Thumbnails(context)
    private var matches = emptyList<Match>()

    /** Shows other photos. */
    fun show(matches: List<Match>) {
        this.matches = matches
        notifyDataSetChanged()
    }

    override fun getCount(): Int = matches.size

    override fun getItem(place: Int): Match = matches[place]

    override fun getItemId(place: Int): Long = matches[place].id

    override fun hasStableIds(): Boolean = true

    override fun getView(place: Int, old: View?, parent: ViewGroup): View {
        val cell = old as? Cell ?: Cell(context, look)
        val match = matches[place]
        if (cell.uri == match.uri) {
            cell.score.text = Words.score(match.score)
            return cell
        }
        cell.uri = match.uri
        cell.score.text = Words.score(match.score)
        cell.picture.setImageDrawable(null)
        cell.contentDescription = "Photo, score ${Words.score(match.score)}"
        cell.loading?.cancel()
        cell.loading = scope.launch { cell.picture.setImageBitmap(thumbnails.load(match.uri)) }
        return cell
    }

    private class Cell(context: Context, look: Look) : FrameLayout(context) {
        val picture = ImageView(context).apply {
            scaleType = ImageView.ScaleType.CENTER_CROP
            setBackgroundColor(Color.rgb(226, 229, 235))
        }
        val score = TextView(context).apply {
            textSize = 12f
            setTextColor(Color.WHITE)
            background = look.rounded(Color.argb(170, 0, 0, 0))
            setPadding(look.dp(6), look.dp(1), look.dp(6), look.dp(1))
        }
        var uri: String? = null
        var loading: Job? = null

        init {
            addView(picture, LayoutParams(MATCH_PARENT, MATCH_PARENT))
            val corner = LayoutParams(WRAP_CONTENT, WRAP_CONTENT, Gravity.BOTTOM or Gravity.END)
            corner.setMargins(0, 0, look.dp(6), look.dp(6))
            addView(score, corner)
        }

        override fun onMeasure(widthSpec: Int, heightSpec: Int) = super.onMeasure(widthSpec, widthSpec)
    }
}
