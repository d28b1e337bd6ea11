package dev.magicmm.demo

import android.content.Context
import android.graphics.Color
import android.graphics.Typeface
import android.graphics.drawable.GradientDrawable
import android.view.Gravity
import android.view.View
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.ViewGroup.LayoutParams.WRAP_CONTENT
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView

/** Colours and sizes of all screens, and views that have them. */
class Look(private val context: Context) {
    val ink = Color.rgb(28, 32, 40)
    val faint = Color.rgb(98, 106, 120)
    val accent = Color.rgb(40, 86, 200)
    val paper = Color.rgb(248, 249, 251)
    val card = Color.WHITE

    fun dp(size: Int): Int = (size * context.resources.displayMetrics.density).toInt()

    fun title(text: String): TextView = text(text, 24f, ink).apply { typeface = Typeface.DEFAULT_BOLD }

    fun body(text: String): TextView = text(text, 16f, ink)

    fun note(text: String): TextView = text(text, 14f, faint)

    fun button(text: String, act: () -> Unit): Button = Button(context).apply {
        this.text = text
        isAllCaps = false
        textSize = 16f
        stateListAnimator = null // flat
        setTextColor(Color.WHITE)
        background = rounded(accent)
        minHeight = dp(48)
        setPadding(dp(16), 0, dp(16), 0)
        setOnClickListener { act() }
    }

    /** A quieter one, for what is seldom wanted. */
    fun plainButton(text: String, act: () -> Unit): Button = button(text, act).apply {
        setTextColor(accent)
        background = rounded(Color.TRANSPARENT, accent)
    }

    fun rounded(fill: Int, edge: Int? = null): GradientDrawable = GradientDrawable().apply {
        setColor(fill)
        cornerRadius = dp(8).toFloat()
        if (edge != null) setStroke(dp(1), edge)
    }

    /** A column of views with space between them. */
    fun column(vararg views: View): LinearLayout = LinearLayout(context).apply {
        orientation = LinearLayout.VERTICAL
        setPadding(dp(20), dp(20), dp(20), dp(20))
        for (view in views) {
            addView(view, LinearLayout.LayoutParams(MATCH_PARENT, WRAP_CONTENT).apply { bottomMargin = dp(14) })
        }
    }

    /** A name on the left and what it is on the right. */
    fun fact(name: String, value: TextView): LinearLayout = LinearLayout(context).apply {
        gravity = Gravity.TOP
        addView(note(name), LinearLayout.LayoutParams(dp(104), WRAP_CONTENT))
        addView(value, LinearLayout.LayoutParams(0, WRAP_CONTENT, 1f))
    }

    private fun text(text: String, size: Float, colour: Int): TextView = TextView(context).apply {
        this.text = text
        textSize = size
        setTextColor(colour)
    }
}
