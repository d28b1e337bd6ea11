package dev.magicmm.android

import android.app.Application
import android.app.job.JobScheduler
import android.content.ComponentCallbacks2
import android.content.Intent
import android.os.BatteryManager
import android.os.PowerManager
import dev.magicmm.Gallery
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.util.ReflectionHelpers
import java.nio.file.Files

/** When work runs and when it waits: governor, jobs, memory, coroutines. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class ConditionsTest {
    @get:Rule
    val folder = TemporaryFolder()

    @Before
    fun setUp() = warmUpGraphics()

    private val app: Application get() = RuntimeEnvironment.getApplication()
    private val good = DeviceState(batteryPercent = 90, isCharging = true)

    private fun reasons(state: DeviceState, policy: GovernorPolicy = GovernorPolicy()) = policy.pauses(state).map {
        it.reason
    }

    @Test
    fun everyReasonHasItsState() {
        assertEquals(emptyList<PauseReason>(), reasons(good))
        assertEquals(listOf(PauseReason.BATTERY_LOW), reasons(DeviceState(batteryPercent = 19, isCharging = false)))
        assertEquals(emptyList<PauseReason>(), reasons(DeviceState(batteryPercent = 19, isCharging = true)))
        assertEquals(emptyList<PauseReason>(), reasons(DeviceState(batteryPercent = null, isCharging = false)))
        assertEquals(
            listOf(PauseReason.NO_CHARGER),
            reasons(DeviceState(batteryPercent = 90, isCharging = false), GovernorPolicy(needsCharger = true)),
        )
        assertEquals(listOf(PauseReason.POWER_SAVE), reasons(good.copy(isPowerSave = true)))
        assertEquals(
            listOf(PauseReason.TOO_WARM),
            reasons(good.copy(thermalStatus = PowerManager.THERMAL_STATUS_MODERATE)),
        )
        assertEquals(listOf(PauseReason.IN_USE), reasons(good.copy(touchedMillisAgo = 100)))
        assertEquals(emptyList<PauseReason>(), reasons(good.copy(touchedMillisAgo = 5_000)))
    }

    @Test
    fun theUserDecidesButNotOverHeat() {
        var state = good.copy(isPowerSave = true)
        var now = 0L
        val governor = Governor(device = { state }, clock = { now })
        governor.isOverridden = true
        assertEquals(emptyList<Pause>(), governor.pauses())
        state = good.copy(thermalStatus = PowerManager.THERMAL_STATUS_SEVERE)
        assertEquals(listOf(PauseReason.TOO_WARM), governor.pauses().map { it.reason })
        governor.isPausedByUser = true
        assertEquals(listOf(PauseReason.ASKED), governor.pauses().map { it.reason })
        governor.isPausedByUser = false
        governor.isOverridden = false
        state = good
        governor.touched()
        assertEquals(listOf(PauseReason.IN_USE), governor.pauses().map { it.reason })
        now = 2_000
        assertEquals(emptyList<Pause>(), governor.pauses())
    }

    @Test
    @Suppress("DEPRECATION") // as the system itself sends the battery's state
    fun theDeviceIsRead() {
        val battery = Intent(Intent.ACTION_BATTERY_CHANGED)
            .putExtra(BatteryManager.EXTRA_LEVEL, 30).putExtra(BatteryManager.EXTRA_SCALE, 60)
            .putExtra(BatteryManager.EXTRA_PLUGGED, BatteryManager.BATTERY_PLUGGED_USB)
        app.sendStickyBroadcast(battery)
        val power = shadowOf(app.getSystemService(PowerManager::class.java))
        power.setIsPowerSaveMode(true)
        power.setCurrentThermalStatus(PowerManager.THERMAL_STATUS_MODERATE)
        val expected =
            DeviceState(50, isCharging = true, isPowerSave = true, thermalStatus = PowerManager.THERMAL_STATUS_MODERATE)
        assertEquals(expected, DeviceConditions(app).read())
    }

    @Test
    fun theJobAsksForGoodConditions() {
        assertTrue(IndexJobs.schedule(app, TestJob::class.java))
        val job = app.getSystemService(JobScheduler::class.java)!!.getPendingJob(IndexJobs.JOB_ID)!!
        assertTrue(job.isRequireCharging && job.isRequireDeviceIdle)
        assertTrue(job.isRequireBatteryNotLow && job.isRequireStorageNotLow)
        assertTrue(job.isPeriodic)
        assertFalse("needs a permission that this app lacks", job.isPersisted)
        IndexJobs.cancel(app)
        assertFalse(IndexJobs.isScheduled(app))
    }

    @Test
    fun aStoppedJobKeepsItsBatchesAndTheNextOneGoesOn() {
        val gallery = slowGallery(120)
        val indexer = Indexer(gallery, Governor(device = { good }), pollMillis = 5)
        TestJob.indexer = indexer
        val service = Robolectric.buildService(TestJob::class.java).create().get()
        val parameters = ReflectionHelpers.newInstance(android.app.job.JobParameters::class.java)
        assertTrue(service.onStartJob(parameters))
        waitUntil { (indexer.state.value as? IndexingState.Running)?.progress?.let { it.done > 0 } == true }
        assertTrue(service.onStopJob(parameters))
        waitUntil { !indexer.isRunning }
        assertEquals(IndexingState.Stopped, indexer.state.value)
        val done = gallery.status().indexed
        assertTrue("$done of 120", done in 1..119)
        val end = indexer.run() as IndexingState.Finished
        assertEquals(120 - done, end.progress.total)
        assertEquals(120, gallery.status().indexed)
        gallery.close()
    }

    @Test
    fun aJobEndsWhereItWouldHaveToWait() {
        val gallery = slowGallery(40)
        val indexer = Indexer(gallery, Governor(device = { good.copy(isPowerSave = true) }), pollMillis = 5)
        assertEquals(IndexingState.Stopped, indexer.run(waits = false))
        assertEquals(0, gallery.status().indexed)
        gallery.close()
    }

    @Test
    fun memoryIsGivenBackByTier() {
        val model = MeanColour()
        var isIndexing = false
        val tiers = MemoryTiers(model) { isIndexing }
        tiers.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN)
        waitUntil { model.released == "images " }
        isIndexing = true
        tiers.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN)
        tiers.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_BACKGROUND)
        waitUntil { model.released == "images all " }
    }

    @Test
    fun aCollectorThatStopsEndsTheSync() = runBlocking {
        val gallery = slowGallery(200)
        val photos = SuspendingGallery(gallery)
        val events = photos.sync().take(3).toList()
        assertEquals(3, events.size)
        val done = photos.status().indexed
        assertTrue("$done of 200", done < 200)
        assertEquals(200, photos.sync().toList().last().done + done)
        assertEquals(200, photos.status().indexed)
        gallery.close()
    }

    private fun waitUntil(isSo: () -> Boolean) {
        val end = System.nanoTime() + 30_000_000_000
        while (!isSo()) {
            check(System.nanoTime() < end) { "waited in vain" }
            Thread.sleep(5)
        }
    }

    /** Photos in a folder, each of which takes some milliseconds. */
    private fun slowGallery(count: Int): Gallery {
        val photos = Files.createDirectory(folder.root.toPath().resolve("photos"))
        val picture = android.graphics.Bitmap.createBitmap(8, 8, android.graphics.Bitmap.Config.ARGB_8888)
        repeat(count) { number ->
            picture.eraseColor(0xFF000000.toInt() or number * 0x010503)
            Files.newOutputStream(photos.resolve("$number.png")).use {
                picture.compress(android.graphics.Bitmap.CompressFormat.PNG, 100, it)
            }
        }
        val model = MeanColour()
        val slow = object : dev.magicmm.PhotoEmbedder by model {
            override fun embedPixels(pixels: List<ByteArray>) = model.embedPixels(pixels).also { Thread.sleep(40) }
        }
        val sources = listOf(dev.magicmm.FolderSource(photos))
        return Gallery.open(app, slow, sources, folder.root.toPath().resolve("index.db"))
    }
}

/** A job of a test. */
class TestJob : IndexJobService() {
    override fun indexer(): Indexer = indexer

    companion object {
        lateinit var indexer: Indexer
    }
}
