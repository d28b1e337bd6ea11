package dev.magicmm.demo

import android.app.Application

/** Holds what the screens and the background job share. */
class DemoApp : Application() {
    /** Made on first use, off the main thread: a new bundle is copied and checked then. Tests put their own in. */
    @Volatile
    var openServices: () -> Services = { Services.open(this) }

    @Volatile
    private var opened: Services? = null

    /** The services; opens them when they are not. */
    val services: Services
        get() = synchronized(this) { opened ?: openServices().also { opened = it } }

    /** The services if they are open; never waits, so that the main thread may ask while they open. */
    val openedServices: Services? get() = opened

    /** Closes the services and deletes their index; the next use begins anew. */
    fun deleteIndex(services: Services) {
        synchronized(this) {
            services.closeAndDelete()
            opened = null
        }
    }
}
