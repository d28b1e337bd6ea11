package dev.magicmm.android

import android.Manifest
import android.app.job.JobInfo
import android.app.job.JobParameters
import android.app.job.JobScheduler
import android.app.job.JobService
import android.content.ComponentName
import android.content.Context
import java.util.concurrent.TimeUnit

/**
 * Indexes in the background, when the device is charging, idle and not low on battery or space. Declare your subclass in
 * the manifest with the permission `android.permission.BIND_JOB_SERVICE`, and call [IndexJobs.schedule] once.
 */
public abstract class IndexJobService : JobService() {
    private var worker: Thread? = null

    /** The app's one indexer, so that screens and the job do not work against each other. Called off the main thread. */
    protected abstract fun indexer(): Indexer

    override fun onStartJob(parameters: JobParameters): Boolean {
        worker = Thread({
            val end = indexer().run(waits = false)
            // A job that was told to stop is over already; Android then ignores this.
            jobFinished(parameters, end is IndexingState.Stopped)
        }, "magicmm-job").apply { start() }
        return true
    }

    /** Ends the run at the next photo, with all batches before it on disk; Android starts the job again. */
    override fun onStopJob(parameters: JobParameters): Boolean {
        Thread({ indexer().stop() }, "magicmm-job-stop").start()
        return true
    }
}

/** Plans the background job of an app. */
public object IndexJobs {
    /** The number of the job unless told otherwise. */
    public const val JOB_ID: Int = 0x4D4D

    private val SHORTEST_MILLIS = TimeUnit.MINUTES.toMillis(15)

    /**
     * Plans indexing for whenever the device is charging, idle, and not low on battery or space.
     *
     * It outlives a restart of the device when the app declares `RECEIVE_BOOT_COMPLETED`.
     *
     * @param service The app's service.
     * @param everyMillis Least time between two runs; Android allows no less than 15 minutes.
     * @return Whether Android took it.
     */
    @JvmStatic
    @JvmOverloads
    public fun schedule(
        context: Context,
        service: Class<out IndexJobService>,
        everyMillis: Long = TimeUnit.HOURS.toMillis(4),
        jobId: Int = JOB_ID,
    ): Boolean {
        val job =
            JobInfo.Builder(jobId, ComponentName(context, service))
                .setRequiresCharging(true)
                .setRequiresDeviceIdle(true)
                .setRequiresBatteryNotLow(true)
                .setRequiresStorageNotLow(true)
                .setPeriodic(maxOf(everyMillis, SHORTEST_MILLIS))
                .setPersisted(isGranted(context, Manifest.permission.RECEIVE_BOOT_COMPLETED))
                .build()
        return scheduler(context).schedule(job) == JobScheduler.RESULT_SUCCESS
    }

    /** Takes the job back. */
    @JvmStatic
    @JvmOverloads
    public fun cancel(context: Context, jobId: Int = JOB_ID): Unit = scheduler(context).cancel(jobId)

    /** Whether the job is planned. */
    @JvmStatic
    @JvmOverloads
    public fun isScheduled(context: Context, jobId: Int = JOB_ID): Boolean =
        scheduler(context).getPendingJob(jobId) != null

    private fun scheduler(context: Context) = checkNotNull(context.getSystemService(JobScheduler::class.java))
}
