package dev.magicmm.demo

import android.app.Activity
import android.content.ActivityNotFoundException
import android.content.Intent
import android.net.Uri
import android.os.Build
import android.os.Bundle
import android.view.MotionEvent
import android.view.View
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.ViewGroup.LayoutParams.WRAP_CONTENT
import android.view.WindowInsets
import android.widget.FrameLayout
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.TextView
import dev.magicmm.android.PhotoAccess
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.cancel

/** Four screens and the tabs between them. */
class MainActivity :
    Activity(),
    Host {
    override val scope: CoroutineScope = MainScope()
    override val app: DemoApp get() = application as DemoApp
    override val access: PhotoAccess get() = PhotoAccess.of(this)

    private lateinit var screens: List<Screen>
    private lateinit var tabs: List<TextView>
    private lateinit var stage: FrameLayout
    private var shown = ACCESS

    override fun onCreate(state: Bundle?) {
        setTheme(android.R.style.Theme_Material_Light_NoActionBar)
        super.onCreate(state)
        val look = Look(this)
        val index = IndexScreen(this, this)
        screens =
            listOf(AccessScreen(this, this), index, SearchScreen(this, this), SettingsScreen(this, this, index::forget))
        stage = FrameLayout(this)
        tabs = listOf("Access", "Index", "Search", "Settings").mapIndexed { place, name -> tab(look, name, place) }
        val bar = LinearLayout(this).apply { setBackgroundColor(look.card) }
        for (tab in tabs) bar.addView(tab, LinearLayout.LayoutParams(0, WRAP_CONTENT, 1f))
        val root =
            LinearLayout(this).apply {
                orientation = LinearLayout.VERTICAL
                setBackgroundColor(look.paper)
                addView(stage, LinearLayout.LayoutParams(MATCH_PARENT, 0, 1f))
                addView(bar, LinearLayout.LayoutParams(MATCH_PARENT, WRAP_CONTENT))
                setOnApplyWindowInsetsListener { view, insets -> keepClear(view, insets) }
            }
        setContentView(root)
        show(state?.getInt(SHOWN) ?: if (access == PhotoAccess.NONE) ACCESS else SEARCH)
    }

    override fun onResume() {
        super.onResume()
        screens[shown].refresh()
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        state.putInt(SHOWN, shown)
    }

    override fun onDestroy() {
        scope.cancel()
        super.onDestroy()
    }

    override fun dispatchTouchEvent(event: MotionEvent): Boolean {
        app.openedServices?.indexer?.governor?.touched()
        return super.dispatchTouchEvent(event)
    }

    override fun onRequestPermissionsResult(request: Int, permissions: Array<out String>, results: IntArray) {
        screens[shown].refresh()
    }

    override fun askForPhotos() {
        requestPermissions(PhotoAccess.permissions().toTypedArray(), ASK)
    }

    override fun view(uri: String) {
        val address = Uri.parse(uri)
        val intent = Intent(Intent.ACTION_VIEW).setDataAndType(address, contentResolver.getType(address) ?: "image/*")
        try {
            startActivity(intent)
        } catch (_: ActivityNotFoundException) {
            // A device without a viewer; the grid shows the photo anyway.
        }
    }

    /** Brings a screen up. */
    fun show(place: Int) {
        shown = place
        val look = Look(this)
        tabs.forEachIndexed { at, tab -> tab.setTextColor(if (at == place) look.accent else look.faint) }
        stage.removeAllViews()
        val view = screens[place].view
        val framed = if (place ==
            SEARCH
        ) {
            view
        } else {
            (view.parent as? ScrollView ?: ScrollView(this).apply { addView(view) })
        }
        stage.addView(framed, FrameLayout.LayoutParams(MATCH_PARENT, MATCH_PARENT))
        screens[place].refresh()
    }

    private fun tab(look: Look, name: String, place: Int): TextView = look.body(name).apply {
        gravity = android.view.Gravity.CENTER
        textSize = 14f
        setPadding(0, look.dp(16), 0, look.dp(16))
        setOnClickListener { show(place) }
    }

    /** From Android 15 on apps draw below the bars of the system. */
    private fun keepClear(view: View, insets: WindowInsets): WindowInsets {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.R) {
            val bars = insets.getInsets(WindowInsets.Type.systemBars() or WindowInsets.Type.ime())
            view.setPadding(bars.left, bars.top, bars.right, bars.bottom)
        }
        return insets
    }

    companion object {
        const val ACCESS = 0
        const val INDEX = 1
        const val SEARCH = 2
        const val SETTINGS = 3
        private const val ASK = 1
        private const val SHOWN = "shown"
    }
}
