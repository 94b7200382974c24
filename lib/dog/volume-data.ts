/** `dog vdi read` and `dog vdi write`: a volume's bytes through stdout and stdin, several requests under way at once. */
import { fstatSync } from 'node:fs'
import type { ProgressCallback, RemoteVolume } from '../control/client.js'
import { SheepError } from '../errors.js'
import type { Session } from './session.js'
import { formatSize } from './size.js'

const PIECE = 1 << 20
const PIECES_IN_FLIGHT = 8

/** `length` -1: to the end. */
export async function readVolume(
  session: Session,
  name: string,
  snapshot: string,
  offset: number,
  length: number,
): Promise<void> {
  if (process.stdout.isTTY) {
    throw new SheepError('invalid', 'bytes of a volume do not belong on a terminal', `dog vdi read ${name} > FILE`)
  }
  const volume = await session.openVolume(name, snapshot, true)
  const total = length < 0 ? Math.max(0, volume.size - offset) : length
  checkRange(name, volume, offset, total)
  await session.withProgress(`reading ${name}`, (progress) => copyOut(volume, offset, total, progress))
  await volume.close()
}

async function copyOut(volume: RemoteVolume, offset: number, total: number, progress: ProgressCallback): Promise<void> {
  const window: Promise<Buffer>[] = []
  let asked = 0
  let written = 0
  while (written < total) {
    while (asked < total && window.length < PIECES_IN_FLIGHT) {
      const length = Math.min(PIECE, total - asked)
      const piece = volume.read(offset + asked, length)
      // It is awaited in its turn; until then its failure is nobody's surprise.
      piece.catch(() => {})
      window.push(piece)
      asked += length
    }
    const bytes = await (window.shift() as Promise<Buffer>)
    await writeOut(bytes)
    written += bytes.length
    progress({ done: written, total, text: '' })
  }
}

function writeOut(bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => (error ? reject(error) : resolve()))
  })
}

/** `length` -1: as much as stdin has. */
export async function writeVolume(session: Session, name: string, offset: number, length: number): Promise<void> {
  if (process.stdin.isTTY) {
    throw new SheepError(
      'invalid',
      'what is written comes from stdin, which is the terminal',
      `dog vdi write ${name} < FILE`,
    )
  }
  const volume = await session.openVolume(name, '', false)
  const known = length >= 0 ? length : inputSize()
  checkRange(name, volume, offset, Math.max(0, known))
  const writer = new Writer(volume, offset)
  await session.withProgress(`writing ${name}`, (progress) => copyIn(writer, name, length, known, progress))
  await volume.close()
  session.report({ written: writer.done }, `Wrote ${formatSize(writer.done)} to ${name}.`)
}

async function copyIn(
  writer: Writer,
  name: string,
  length: number,
  known: number,
  progress: ProgressCallback,
): Promise<void> {
  let wanted = length < 0 ? Number.POSITIVE_INFINITY : length
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    await writer.add(chunk.subarray(0, Math.min(chunk.length, wanted)))
    wanted -= chunk.length
    progress({ done: writer.done, total: Math.max(0, known), text: '' })
    if (wanted <= 0) break
  }
  await writer.finish()
  if (length >= 0 && writer.done < length) {
    throw new SheepError('invalid', `stdin ended after ${writer.done} of ${length} bytes, which are written to ${name}`)
  }
}

/** Gathers input into pieces and keeps some of them under way. */
class Writer {
  /** Bytes acknowledged */
  done = 0
  private piece = Buffer.allocUnsafe(PIECE)
  private filled = 0
  private readonly inFlight = new Set<Promise<void>>()
  private failure: unknown = null

  constructor(
    private readonly volume: RemoteVolume,
    private position: number,
  ) {}

  async add(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const room = PIECE - this.filled
      const part = bytes.subarray(at, at + room)
      part.copy(this.piece, this.filled)
      this.filled += part.length
      at += part.length
      if (this.filled === PIECE) await this.send()
    }
  }

  /** All of it is durable when this resolves. */
  async finish(): Promise<void> {
    if (this.filled > 0) await this.send()
    await Promise.all(this.inFlight)
    this.check()
    await this.volume.flush()
  }

  private async send(): Promise<void> {
    const bytes = this.piece.subarray(0, this.filled)
    if (this.position + bytes.length > this.volume.size) {
      throw new SheepError(
        'too-big',
        `stdin has more than fits: the volume ends at ${this.volume.size} bytes`,
        'make it larger with dog vdi resize, and write again',
      )
    }
    const request = this.volume.write(this.position, bytes).then(
      () => {
        this.done += bytes.length
      },
      (error: unknown) => {
        this.failure ??= error
      },
    )
    const ended = request.finally(() => this.inFlight.delete(ended))
    this.inFlight.add(ended)
    this.position += bytes.length
    this.piece = Buffer.allocUnsafe(PIECE)
    this.filled = 0
    while (this.inFlight.size >= PIECES_IN_FLIGHT) await Promise.race(this.inFlight)
    this.check()
  }

  private check(): void {
    if (this.failure !== null) throw this.failure
  }
}

/** Bytes that stdin has when it is a file; -1 unknown. */
function inputSize(): number {
  const stat = fstatSync(0)
  return stat.isFile() ? stat.size : -1
}

function checkRange(name: string, volume: RemoteVolume, offset: number, length: number): void {
  if (offset + length <= volume.size) return
  throw new SheepError(
    'too-big',
    `${formatSize(length)} at ${offset} do not fit: ${name} is ${formatSize(volume.size)} (${volume.size} bytes)`,
    'give a smaller length, or make it larger with dog vdi resize',
  )
}
