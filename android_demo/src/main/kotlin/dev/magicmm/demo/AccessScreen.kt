package dev.magicmm.demo

import android.content.Context
import android.view.View
import dev.magicmm.android.PhotoAccess

/** Which photos the app may see, and what it does with them. */
class AccessScreen(context: Context, private val host: Host) : Screen {
    private val look = Look(context)
    private val state = look.body("")
    private val effect = look.note("")
    private val ask = look.button(Words.ALLOW, host::askForPhotos)

    override val view: View = look.column(look.title("Your photos"), look.body(Words.PRIVACY), state, effect, ask)

    override fun refresh() {
        val access = host.access
        state.text = Words.access(access)
        effect.text = Words.accessEffect(access)
        ask.text = if (access == PhotoAccess.PARTIAL) Words.CHOOSE_MORE else Words.ALLOW
        ask.visibility = if (access == PhotoAccess.FULL) View.GONE else View.VISIBLE
    }
}
