package dev.magicmm

/**
 * Marks parts that tools of this project use beneath [Gallery] (conformance, benchmarks, other platforms' databases).
 * They may change in any version; apps do not need them.
 */
@RequiresOptIn("Part of the inside of magicmm: it may change in any version.", RequiresOptIn.Level.ERROR)
@Retention(AnnotationRetention.BINARY)
public annotation class MagicInternals
