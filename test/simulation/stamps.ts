/**
 * Contents that name themselves: every cell (512 bytes, or less in volumes that are written at odd offsets) holds its
 * own index and the number of the write that put it there, repeated, so that one look at a cell tells which write it
 * is from, and a shifted, torn or mixed cell is known as such. Stamp 0 is a cell of zeros.
 */
const UNIT = 16
const MAGIC_LOW = 0x53484545
const MAGIC_HIGH = 0x50444f47
export const TORN = -1

const pattern = Buffer.alloc(UNIT)

export function fillCells(target: Buffer, cellSize: number, firstCell: number, stamp: number): void {
  for (let at = 0, cell = firstCell; at < target.length; at += cellSize, cell++) {
    pattern.writeUInt32LE(MAGIC_LOW, 0)
    pattern.writeUInt32LE(MAGIC_HIGH, 4)
    pattern.writeUInt32LE(cell, 8)
    pattern.writeUInt32LE(stamp, 12)
    target.fill(pattern, at, at + cellSize)
  }
}

const zeros = Buffer.alloc(4096)

/** The stamp of one cell, 0 for zeros, TORN for what no single write can have left. */
export function stampOf(bytes: Buffer, at: number, cellSize: number, cell: number): number {
  const end = at + cellSize
  if (bytes.readUInt32LE(at) === 0) return bytes.compare(zeros, 0, cellSize, at, end) === 0 ? 0 : TORN
  if (bytes.readUInt32LE(at) !== MAGIC_LOW || bytes.readUInt32LE(at + 4) !== MAGIC_HIGH) return TORN
  if (bytes.readUInt32LE(at + 8) !== cell) return TORN
  if (cellSize > UNIT && bytes.compare(bytes, at, end - UNIT, at + UNIT, end) !== 0) return TORN
  return bytes.readUInt32LE(at + 12)
}

/** For a report: what a cell that is not as expected holds. */
export function describeCell(bytes: Buffer, at: number, cellSize: number): string {
  const parts: string[] = []
  let last = ''
  for (let i = at; i < at + cellSize; i += UNIT) {
    const known = bytes.readUInt32LE(i) === MAGIC_LOW && bytes.readUInt32LE(i + 4) === MAGIC_HIGH
    const text = known
      ? `write ${bytes.readUInt32LE(i + 12)} of cell ${bytes.readUInt32LE(i + 8)}`
      : bytes.subarray(i, i + UNIT).toString('hex')
    if (text !== last) parts.push(`+${i - at}: ${text}`)
    last = text
  }
  return parts.slice(0, 8).join(', ')
}
