package dev.magicmm.demo

import android.Manifest
import android.app.AlertDialog
import android.app.Application
import android.content.Context
import android.graphics.drawable.BitmapDrawable
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.CheckBox
import android.widget.GridView
import android.widget.TextView
import dev.magicmm.Bundle
import dev.magicmm.android.DeviceState
import dev.magicmm.android.FakeMediaStore
import dev.magicmm.android.FakePhoto
import dev.magicmm.android.IndexJobs
import dev.magicmm.android.IndexingState
import dev.magicmm.android.warmUpGraphics
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadows.ShadowAlertDialog
import java.nio.file.Files
import java.nio.file.Paths

/** A person goes through the app: with real photos, the built-in model and the real runtime. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], application = DemoApp::class, qualifiers = "w360dp-h720dp-xhdpi")
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class DemoAppTest {
    private lateinit var library: FakeMediaStore
    private lateinit var controller: ActivityController<MainActivity>
    private val app: DemoApp get() = RuntimeEnvironment.getApplication() as DemoApp
    private val activity: MainActivity get() = controller.get()

    @Volatile
    private var device = DeviceState(batteryPercent = 80, isCharging = false)

    @Before
    fun setUp() {
        warmUpGraphics()
        val pictures = Pictures.files()
        library = Robolectric.buildContentProvider(FakeMediaStore::class.java).create("media").get()
        library.photos = pictures.mapIndexed { place, file -> FakePhoto(place + 1L, file) }
        val nano = Paths.get(System.getProperty("magicmm.repository"), "sdk/python/magicmm/bundles/nano.magicmm")
        app.openServices = { Services.open(app, Bundle.load(nano)) { device } }
        controller = Robolectric.buildActivity(MainActivity::class.java)
    }

    @After
    fun tearDown() {
        controller.pause().stop().destroy()
        app.openedServices?.close()
    }

    private fun allow(vararg permissions: String) = shadowOf(app as Application).grantPermissions(*permissions)

    private fun start() {
        controller.setup()
        waitFor("the first screen") { texts().isNotEmpty() }
    }

    private fun views(root: View = activity.window.decorView): Sequence<View> = sequence {
        yield(root)
        if (root is ViewGroup) for (place in 0 until root.childCount) yieldAll(views(root.getChildAt(place)))
    }

    private fun texts(): List<String> = views().filterIsInstance<TextView>()
        .filter { it.isShown && it.text.isNotEmpty() }.map { it.text.toString() }.toList()

    private fun tap(text: String) = views().filterIsInstance<TextView>().first {
        it.isShown &&
            it.text.toString() == text
    }.performClick()

    private fun hasText(part: String): Boolean = texts().any { part in it }

    private fun waitFor(what: String, isThere: () -> Boolean) {
        val end = System.nanoTime() + 60_000_000_000
        while (true) {
            shadowOf(Looper.getMainLooper()).idle()
            if (isThere()) return
            check(System.nanoTime() < end) { "waited in vain for $what; the screen says ${texts()}" }
            Thread.sleep(20)
        }
    }

    private fun index() {
        tap("Index")
        waitFor("the button") { hasText("Index now") }
        tap("Index now")
        waitFor("the end") { hasText("Up to date.") && hasText("photos can be found") }
    }

    private fun search(words: String) {
        tap("Search")
        val field = views().first { it.isShown && it is TextView && it.hint == Words.SEARCH_HINT } as TextView
        field.text = words
        field.onEditorAction(android.view.inputmethod.EditorInfo.IME_ACTION_SEARCH)
        waitFor("results") { hasText("the best ") }
    }

    private fun grid(): GridView = views().filterIsInstance<GridView>().single()

    private fun found(): List<String> {
        val grid = grid().adapter as PhotoGrid
        val names = library.photos.associate { it.id to it.file.nameWithoutExtension }
        return List(grid.count) { names.getValue(grid.getItem(it).uri.substringAfterLast('/').toLong()) }
    }

    private fun waitForPictures() = waitFor("pictures") {
        val pictures = views(grid()).filterIsInstance<android.widget.ImageView>().toList()
        pictures.isNotEmpty() && pictures.all { (it.drawable as? BitmapDrawable)?.bitmap != null }
    }

    @Test
    fun withoutAccessTheAppAsksForIt() {
        start()
        assertTrue(hasText(Words.PRIVACY))
        assertTrue(hasText("You allow no photos yet."))
        activity.screenshot("access")
        tap("Index")
        waitFor("the index screen") { hasText("You allow no photos yet.") }
        tap("Access")
        tap(Words.ALLOW)
        val asked = shadowOf(activity).lastRequestedPermission.requestedPermissions.toList()
        assertTrue(
            asked.containsAll(
                listOf(Manifest.permission.READ_MEDIA_IMAGES, "android.permission.READ_MEDIA_VISUAL_USER_SELECTED"),
            ),
        )
        allow(Manifest.permission.READ_MEDIA_IMAGES)
        controller.pause().resume()
        waitFor("full access") { hasText("You allow all photos.") }
    }

    @Test
    fun withPartialAccessMorePhotosCanBeChosen() {
        allow("android.permission.READ_MEDIA_VISUAL_USER_SELECTED")
        start()
        tap("Access")
        waitFor("partial access") { hasText("You allow the photos that you chose.") && hasText(Words.CHOOSE_MORE) }
        activity.screenshot("partial")
    }

    @Test
    fun photosAreIndexedAndFound() {
        allow(Manifest.permission.READ_MEDIA_IMAGES)
        start()
        index()
        waitFor("the counts") { hasText("10 of 10 new or changed photos") && hasText("10 photos can be found") }
        activity.screenshot("index")
        for ((words, expected) in listOf(
            "a cat" to "chelsea",
            "a cup of coffee" to "coffee",
            "an astronaut" to "astronaut",
        )) {
            search(words)
            waitFor(expected) { found().firstOrNull() == expected }
        }
        waitForPictures()
        search("a rocket launch")
        waitFor("the rocket") { found().firstOrNull() == "rocket" }
        waitForPictures()
        activity.screenshot("search")
        val first = grid()
        assertTrue(first.onItemLongClickListener.onItemLongClick(first, first.getChildAt(0), 0, 0))
        waitFor("similar photos") { hasText(Words.SIMILAR) }
        assertEquals(9, found().size)
        assertFalse("rocket" in found())
        waitForPictures()
        activity.screenshot("similar")
    }

    @Test
    fun aLowBatteryPausesAndTheUserMayOverrideIt() {
        device = DeviceState(batteryPercent = 12, isCharging = false)
        library.photos = library.photos.flatMap { photo -> List(6) { photo.copy(id = 100 * it + photo.id) } }
        allow(Manifest.permission.READ_MEDIA_IMAGES)
        start()
        tap("Index")
        waitFor("the button") { hasText("Index now") }
        tap("Index now")
        waitFor("the pause") { hasText("The battery is at 12 %; goes on at 20 % or with a charger.") }
        activity.screenshot("paused")
        assertTrue(app.services.indexer.state.value is IndexingState.Paused)
        views().filterIsInstance<CheckBox>().single { it.isShown }.performClick()
        waitFor("the end") { hasText("Up to date.") && hasText("60 photos can be found") }
    }

    @Test
    fun settingsTellAndDelete() {
        allow(Manifest.permission.READ_MEDIA_IMAGES)
        start()
        index()
        tap("Settings")
        waitFor("the facts") { hasText("10 indexed, 0 skipped") && hasText("nano") }
        activity.screenshot("settings")
        tap(Words.BACKGROUND)
        assertTrue(IndexJobs.isScheduled(activity))
        val path = app.services.indexPath
        tap(Words.DELETE)
        ShadowAlertDialog.getLatestAlertDialog().getButton(AlertDialog.BUTTON_POSITIVE).performClick()
        waitFor("the empty index") { "0 indexed, 0 skipped" in texts() }
        assertTrue(Files.exists(path))
        index()
        search("a horse")
        waitFor("the horse") { found().firstOrNull() == "horse" }
    }
}
