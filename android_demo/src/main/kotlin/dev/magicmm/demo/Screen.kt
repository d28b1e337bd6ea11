package dev.magicmm.demo

import android.view.View
import dev.magicmm.MagicError
import dev.magicmm.android.PhotoAccess
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** What a screen may ask of the app around it. */
interface Host {
    /** Lives as long as the activity; on the main thread. */
    val scope: CoroutineScope

    /** What the app may see at this moment. */
    val access: PhotoAccess

    /** Opens model and index when they are not; the first time takes a second. */
    val app: DemoApp

    /** Asks the user for photos. */
    fun askForPhotos()

    /** Shows a photo in the device's own viewer. */
    fun view(uri: String)
}

/** One of the four screens. */
interface Screen {
    /** Its view, made once. */
    val view: View

    /** Called whenever the screen comes up or the app comes back. */
    fun refresh()
}

/** Runs [work] with the services, opened off the main thread; an error goes to [onError] as a sentence. */
fun Host.launchWithServices(onError: (String) -> Unit, work: suspend (Services) -> Unit) {
    scope.launch {
        try {
            work(withContext(Dispatchers.IO) { app.services })
        } catch (error: MagicError) {
            onError(error.toString())
        }
    }
}
