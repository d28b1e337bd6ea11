package dev.magicmm.android

import android.os.PowerManager

/** Why indexing waits. */
public enum class PauseReason {
    /** The user paused it. */
    ASKED,

    /** The policy wants a charger, and there is none. */
    NO_CHARGER,

    /** The battery is low and not charging. */
    BATTERY_LOW,

    /** The device saves power. */
    POWER_SAVE,

    /** The device is warm. */
    TOO_WARM,

    /** Somebody is using the app at this moment. */
    IN_USE,
}

/** A [reason] and, in [text], a sentence for people that says what makes indexing go on. */
public data class Pause(val reason: PauseReason, val text: String)

/**
 * What a device is doing.
 *
 * @property batteryPercent 0 to 100; null when the device does not say.
 * @property isCharging Whether power comes in.
 * @property isPowerSave Whether the user or the system saves power.
 * @property thermalStatus One of `PowerManager.THERMAL_STATUS_*`; 0 before Android 10.
 * @property touchedMillisAgo Time since the last touch; null for a long time.
 */
public data class DeviceState(
    val batteryPercent: Int?,
    val isCharging: Boolean,
    val isPowerSave: Boolean = false,
    val thermalStatus: Int = 0,
    val touchedMillisAgo: Long? = null,
)

/**
 * When a device may index: all of it in one place, so that an app can show it and change it.
 *
 * @property leastBatteryPercent Below it indexing waits for a charger.
 * @property needsCharger Whether it always waits for a charger.
 * @property hottest The highest `PowerManager.THERMAL_STATUS_*` at which it goes on.
 * @property pausesInPowerSave Whether it waits while the device saves power.
 * @property quietMillis How long it waits after a touch.
 */
public data class GovernorPolicy(
    val leastBatteryPercent: Int = 20,
    val needsCharger: Boolean = false,
    val hottest: Int = PowerManager.THERMAL_STATUS_LIGHT,
    val pausesInPowerSave: Boolean = true,
    val quietMillis: Long = 1_500,
) {
    /** Everything that speaks against indexing in a state; nothing when it may go on. */
    public fun pauses(state: DeviceState): List<Pause> = buildList {
        val percent = state.batteryPercent
        if (needsCharger && !state.isCharging) {
            add(Pause(PauseReason.NO_CHARGER, "Waits for a charger."))
        } else if (percent != null && percent < leastBatteryPercent && !state.isCharging) {
            val goal = "goes on at $leastBatteryPercent % or with a charger"
            add(Pause(PauseReason.BATTERY_LOW, "The battery is at $percent %; $goal."))
        }
        if (pausesInPowerSave && state.isPowerSave) {
            add(Pause(PauseReason.POWER_SAVE, "The device saves power; goes on when that is off."))
        }
        val isWarm = state.thermalStatus > hottest
        if (isWarm) add(Pause(PauseReason.TOO_WARM, "The device is warm; goes on when it has cooled."))
        val touched = state.touchedMillisAgo
        if (touched != null && touched < quietMillis) add(Pause(PauseReason.IN_USE, "Lets you go first."))
    }
}

/**
 * Decides whether indexing may go on at this moment. Thread-safe.
 *
 * @property policy What it goes by; may be changed at any time.
 * @param device Reads the state of the device; its touches are added here.
 * @param clock Milliseconds that grow also while the device sleeps.
 */
public class Governor(
    @Volatile public var policy: GovernorPolicy = GovernorPolicy(),
    private val device: () -> DeviceState,
    private val clock: () -> Long = android.os.SystemClock::elapsedRealtime,
) {
    @Volatile
    private var touchedAt: Long? = null

    /** Whether the user wants indexing to go on whatever the policy says; only heat that harms the device still stops it. */
    @Volatile
    public var isOverridden: Boolean = false

    /** Whether the user paused indexing; stronger than [isOverridden]. */
    @Volatile
    public var isPausedByUser: Boolean = false

    /** Tell it that somebody touches the screen. */
    public fun touched() {
        touchedAt = clock()
    }

    /** Why indexing must wait now; nothing when it may go on. */
    public fun pauses(): List<Pause> {
        if (isPausedByUser) return listOf(Pause(PauseReason.ASKED, "You paused it."))
        val state = device().copy(touchedMillisAgo = touchedAt?.let { clock() - it })
        val found = policy.pauses(state)
        if (!isOverridden) return found
        return found.filter {
            it.reason == PauseReason.TOO_WARM &&
                state.thermalStatus >= PowerManager.THERMAL_STATUS_SEVERE
        }
    }
}
