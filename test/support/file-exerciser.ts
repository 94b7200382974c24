/** Random operations on a file, compared with the same ones on a buffer in memory: what fsx does. */
import fs from 'node:fs'
import {
  FALLOC_KEEP_SIZE,
  FALLOC_PUNCH_HOLE,
  FALLOC_ZERO_RANGE,
  fallocate,
  seekData,
  seekHole,
} from '../../lib/host/native.js'
import { SimRandom } from '../simulation/random.js'
import { copyFileRange, mapped } from './native-file.js'

export interface ExerciseOptions {
  seed: number
  operations: number
  /** bytes */
  sizeMax: number
  /** Of one write or read */
  lengthMax: number
  /** Past the page cache, but for what is mapped */
  direct?: boolean
}

/** Throws at the first difference, with the operations that led to it. */
export function exercise(path: string, options: ExerciseOptions): void {
  const { seed, operations, sizeMax, lengthMax, direct = false } = options
  const flags = fs.constants.O_RDWR | (direct ? fs.constants.O_DIRECT : 0)
  const random = new SimRandom(seed)
  let model = Buffer.alloc(sizeMax)
  let size = 0
  let fd = fs.openSync(path, flags | fs.constants.O_CREAT | fs.constants.O_TRUNC, 0o600)
  const recent: string[] = []
  const fail = (what: string): never => {
    throw new Error(`seed ${seed}: ${what}\nafter:\n  ${recent.slice(-12).join('\n  ')}`)
  }
  const note = (text: string): void => {
    recent.push(text)
    if (recent.length > 64) recent.shift()
  }
  const grow = (to: number): void => {
    size = Math.max(size, to)
  }
  for (let i = 0; i < operations; i++) {
    const offset = random.below(sizeMax - 1)
    const length = 1 + random.below(Math.min(lengthMax, sizeMax - offset))
    const end = offset + length
    const kind = random.below(100)
    const someBytes = (count: number): Buffer => {
      const bytes = Buffer.alloc(count, 1 + random.below(255))
      bytes.writeUInt8(random.below(256), random.below(count))
      return bytes
    }
    if (kind < 28) {
      const bytes = someBytes(length)
      note(`write ${offset} ${length}`)
      const wrote = fs.writeSync(fd, bytes, 0, length, offset)
      if (wrote !== length) fail(`wrote ${wrote} of ${length}`)
      bytes.copy(model, offset)
      grow(end)
    } else if (kind < 33) {
      const within = Math.min(length, size - offset)
      if (within <= 0) continue
      note(`write mapped ${offset} ${within}`)
      const bytes = someBytes(within)
      mapped(fd, bytes, offset, true)
      bytes.copy(model, offset)
    } else if (kind < 38) {
      const within = Math.min(length, size - offset)
      if (within <= 0) continue
      note(`read mapped ${offset} ${within}`)
      const bytes = Buffer.alloc(within)
      mapped(fd, bytes, offset, false)
      if (!bytes.equals(model.subarray(offset, offset + within))) fail(`mapped ${within} at ${offset}: other bytes`)
    } else if (kind < 43) {
      const to = random.below(sizeMax - length + 1)
      const within = Math.min(length, size - offset, Math.abs(to - offset))
      if (within <= 0) continue
      note(`copy ${offset} to ${to} ${within}`)
      for (let done = 0; done < within; ) {
        const copied = copyFileRange(fd, offset + done, fd, to + done, within - done)
        if (copied === 0) fail(`copied ${done} of ${within}`)
        done += copied
      }
      model.copy(model, to, offset, offset + within)
      grow(to + within)
    } else if (kind < 70) {
      note(`read ${offset} ${length}`)
      const bytes = Buffer.alloc(length)
      const got = fs.readSync(fd, bytes, 0, length, offset)
      const expected = model.subarray(Math.min(offset, size), Math.min(end, size))
      if (got !== expected.length) fail(`read ${got} bytes, ${expected.length} are there`)
      if (!bytes.subarray(0, got).equals(expected)) fail(`read ${length} at ${offset}: other bytes`)
    } else if (kind < 76) {
      const to = random.chance(0.5) ? offset : Math.min(sizeMax, size + random.below(lengthMax))
      note(`truncate ${to} from ${size}`)
      fs.ftruncateSync(fd, to)
      model.fill(0, Math.min(to, size))
      size = to
    } else if (kind < 82) {
      note(`punch ${offset} ${length}`)
      const result = fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset, length)
      if (result !== 0) fail(`punch: ${result}`)
      model.fill(0, offset, Math.min(end, size))
    } else if (kind < 88) {
      const keep = random.chance(0.5)
      note(`zero ${offset} ${length}${keep ? ' keep' : ''}`)
      const result = fallocate(fd, FALLOC_ZERO_RANGE | (keep ? FALLOC_KEEP_SIZE : 0), offset, length)
      if (result !== 0) fail(`zero: ${result}`)
      model.fill(0, offset, keep ? Math.min(end, size) : end)
      if (!keep) grow(end)
    } else if (kind < 92) {
      const keep = random.chance(0.5)
      note(`allocate ${offset} ${length}${keep ? ' keep' : ''}`)
      const result = fallocate(fd, keep ? FALLOC_KEEP_SIZE : 0, offset, length)
      if (result !== 0) fail(`allocate: ${result}`)
      if (!keep) grow(end)
    } else if (kind < 95) {
      note('fsync')
      fs.fsyncSync(fd)
    } else if (kind < 98) {
      note(`seek ${offset}`)
      checkHoles(fd, model, size, offset, fail)
    } else {
      note('close and open')
      fs.closeSync(fd)
      fd = fs.openSync(path, flags)
    }
    const { size: shown } = fs.fstatSync(fd)
    if (shown !== size) fail(`the file has ${shown} bytes, not ${size}`)
  }
  fs.closeSync(fd)
  const whole = fs.readFileSync(path)
  if (!whole.equals(model.subarray(0, size))) fail('at the end: other bytes')
  model = whole
}

/** Data may be where there are zeros, never the reverse. */
function checkHoles(fd: number, model: Buffer, size: number, from: number, fail: (what: string) => never): void {
  if (from >= size) return
  const data = seekData(fd, from)
  const until = data < 0 ? size : data
  for (let at = from; at < until; at++) if (model[at] !== 0) fail(`a hole is said to reach from ${from} to ${until}`)
  const hole = seekHole(fd, from)
  if (hole < from || hole > size) fail(`a hole is said to be at ${hole}`)
}
