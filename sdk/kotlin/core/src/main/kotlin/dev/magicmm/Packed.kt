package dev.magicmm

import java.nio.file.Path

/** Where an ONNX graph says that a packed tensor lies: beyond any file, so a runtime without the weights must fail. */
internal const val UNSTORED_OFFSET: Long = 1L shl 40

private const val LEAST_CODE = -7
private const val MOST_MULTIPLIER = 18

/**
 * Bytes in rows.
 *
 * @property values [rows] x [columns] bytes.
 */
@MagicInternals
public class ByteMatrix(public val rows: Int, public val columns: Int, public val values: ByteArray)

/**
 * The int8 [K, N] weights of a stored tensor (docs/FORMAT.md, "Packed weights").
 *
 * @param codes [K, N / 2]: two 4-bit codes a byte.
 * @param multipliers [K / group, N], 1 to 18.
 * @throws MagicError `bundle_invalid` when shapes do not divide, for codes of -8 and multipliers outside 1 to 18.
 */
@MagicInternals
public fun unpack(codes: ByteMatrix, multipliers: ByteMatrix): ByteMatrix {
    val half = codes.columns
    val columns = 2 * half
    val isEmpty = codes.rows < 1 || half < 1 || multipliers.rows < 1
    if (isEmpty || multipliers.columns != columns || codes.rows % multipliers.rows != 0) {
        val sizes = "[${multipliers.rows}, ${multipliers.columns}]"
        throw bundleInvalid("Multipliers $sizes do not divide weights [${codes.rows}, $columns] into groups of rows.")
    }
    if (multipliers.values.any { it !in 1..MOST_MULTIPLIER }) {
        throw bundleInvalid("Multipliers must be 1 to $MOST_MULTIPLIER.")
    }
    val group = codes.rows / multipliers.rows
    val values = ByteArray(codes.rows * columns)
    for (row in 0 until codes.rows) {
        val factors = row / group * columns
        val target = row * columns
        for (column in 0 until half) {
            val byte = codes.values[row * half + column].toInt()
            // An arithmetic shift of the signed byte brings a nibble down with its sign.
            val low = (byte shl 4).toByte().toInt() shr 4
            val high = byte shr 4
            if (low < LEAST_CODE || high < LEAST_CODE) throw bundleInvalid("A code is -8.")
            values[target + column] = (low * multipliers.values[factors + column]).toByte()
            values[target + half + column] = (high * multipliers.values[factors + half + column]).toByte()
        }
    }
    return ByteMatrix(codes.rows, columns, values)
}

/**
 * The packed weights of one graph; each is unpacked when it is read, so that only one is in memory besides the runtime's.
 *
 * @param path A `safetensors` file.
 * @param shapes The tensors that the graph declares, all of them and no others.
 * @throws MagicError `bundle_invalid` for an unreadable file or other names.
 */
public class PackedWeights internal constructor(private val path: Path, private val shapes: Map<String, List<Long>>) {
    private val file = Safetensors(path)

    /** Names of the initializers that the graph does not store. */
    public val names: Set<String> get() = shapes.keys

    init {
        val expected = shapes.keys.flatMap { listOf("$it.codes", "$it.multipliers") }.toSet()
        (expected - file.entries.keys).minOrNull()?.let {
            throw bundleInvalid("The packed weights lack $it, which the graph declares.")
        }
        (file.entries.keys - expected).minOrNull()?.let {
            throw bundleInvalid("The packed weights hold $it, which the graph does not declare.")
        }
    }

    /**
     * One weight, int8 [K, N].
     *
     * @throws MagicError `bundle_invalid` for other types or shapes, or values out of range.
     */
    @MagicInternals
    public fun read(name: String): ByteMatrix {
        val codes = matrix("$name.codes")
        val multipliers = matrix("$name.multipliers")
        val stored = listOf(codes.rows.toLong(), 2L * codes.columns)
        if (stored != shapes[name]) {
            throw bundleInvalid("${path.fileName} holds $name as $stored, the graph declares ${shapes[name]}.")
        }
        return unpack(codes, multipliers)
    }

    private fun matrix(name: String): ByteMatrix {
        val entry = file.entries.getValue(name)
        if (entry.type != "U8" || entry.shape.size != 2) {
            throw bundleInvalid("${path.fileName} holds $name as ${entry.type} ${entry.shape}, not as rows of U8.")
        }
        return ByteMatrix(entry.shape[0], entry.shape[1], file.bytes(name))
    }
}
