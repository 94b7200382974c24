/** Damage to valid inputs: what a broken peer, a hostile client or a rotten disk makes of them. All from one SimRandom. */
import type { SimRandom } from '../simulation/random.js'

const NUMBERS = [
  0,
  1,
  2,
  3,
  4,
  7,
  8,
  15,
  16,
  19,
  20,
  31,
  32,
  47,
  48,
  49,
  255,
  256,
  511,
  512,
  4095,
  4096,
  65_535,
  65_536,
  2 ** 20,
  2 ** 22,
  2 ** 24 - 1,
  2 ** 24,
  2 ** 25,
  2 ** 26,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
]

/** Numbers at which code changes its mind, and some that are absurd. */
export function oddNumber(random: SimRandom): number {
  return random.chance(0.8) ? random.pick(NUMBERS) : random.u32()
}

function overwrite(random: SimRandom, bytes: Buffer): Buffer {
  const result = Buffer.from(bytes)
  const at = random.below(result.length)
  switch (random.below(6)) {
    case 0:
      result[at] ^= 1 << random.below(8)
      break
    case 1:
      result[at] = random.pick([0, 1, 0x7f, 0x80, 0xff, random.below(256)])
      break
    case 2:
      if (at + 2 <= result.length) result.writeUInt16LE(oddNumber(random) & 0xffff, at)
      break
    case 3:
      if (at + 4 <= result.length) result.writeUInt32LE(oddNumber(random), at)
      break
    case 4:
      if (at + 4 <= result.length) result.writeUInt32BE(oddNumber(random), at)
      break
    default:
      result.fill(random.pick([0, 0xff, 0x5a]), at, Math.min(result.length, at + 1 + random.below(32)))
  }
  return result
}

function restructure(random: SimRandom, bytes: Buffer, other: Buffer): Buffer {
  const at = random.below(bytes.length)
  const length = 1 + random.below(random.chance(0.8) ? 40 : bytes.length)
  const from = random.below(other.length)
  switch (random.below(5)) {
    case 0:
      return bytes.subarray(0, at)
    case 1:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)])
    case 2:
      return Buffer.concat([bytes.subarray(0, at + length), bytes.subarray(at)])
    case 3:
      return Buffer.concat([bytes.subarray(0, at), other.subarray(from, from + length), bytes.subarray(at)])
    default:
      return Buffer.concat([bytes.subarray(0, at), other.subarray(from)])
  }
}

/** 1 to `most` hits, each a change in place, a cut, a repetition, or a piece of `other` put in. */
export function damaged(random: SimRandom, bytes: Buffer, other: Buffer, most = 3): Buffer {
  let result = bytes
  for (let hits = 1 + random.below(most); hits > 0 && result.length > 0; hits--) {
    result = random.chance(0.7) || other.length === 0 ? overwrite(random, result) : restructure(random, result, other)
  }
  return result
}

/** Messages lost, repeated, in another order. */
export function disordered<T>(random: SimRandom, messages: readonly T[]): T[] {
  const result = [...messages]
  for (let hits = random.below(4); hits > 0 && result.length > 0; hits--) {
    const at = random.below(result.length)
    const choice = random.below(3)
    if (choice === 0) result.splice(at, 1)
    else if (choice === 1) result.splice(random.below(result.length + 1), 0, result[at])
    else result.push(...result.splice(at, 1))
  }
  return result
}

/** Cut where a socket's reads may cut it: mostly into few pieces, sometimes byte by byte. */
export function split(random: SimRandom, bytes: Buffer): Buffer[] {
  const pieces: Buffer[] = []
  const most = random.chance(0.05) ? 3 : random.chance(0.5) ? 200 : 1 << 20
  // A drip of many bytes would say nothing more, and take long.
  const drip = most === 3 && bytes.length > 600 ? 50 : most
  for (let at = 0; at < bytes.length; ) {
    const length = 1 + random.below(Math.min(drip, bytes.length - at))
    pieces.push(bytes.subarray(at, at + length))
    at += length
  }
  return pieces
}

export function randomBytes(random: SimRandom, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let i = 0; i < length; i++) bytes[i] = random.below(256)
  return bytes
}

const ODD_VALUES: (() => unknown)[] = [
  () => null,
  () => true,
  () => 0,
  () => -1,
  () => 0.5,
  () => 2 ** 53,
  () => 1e308,
  () => '',
  () => 'x'.repeat(300),
  () => '\u0000\ud800',
  () => '__proto__',
  () => [],
  () => {
    return {}
  },
  () => [[[[[]]]]],
  () => [null],
  () => ({ constructor: 1, type: {}, length: 5 }),
]

/** A JSON value with one place changed: a value of another kind, a field gone or added, an item repeated. */
export function damagedJson(random: SimRandom, value: unknown): unknown {
  const copy = structuredClone(value)
  const places: { holder: object; key: string }[] = []
  const collect = (holder: unknown): void => {
    if (typeof holder !== 'object' || holder === null) return
    for (const key of Object.keys(holder)) {
      places.push({ holder, key })
      collect(Reflect.get(holder, key))
    }
  }
  collect(copy)
  if (places.length === 0 || random.chance(0.02)) return random.pick(ODD_VALUES)()
  const { holder, key } = random.pick(places)
  const choice = random.below(6)
  if (choice === 0) Reflect.deleteProperty(holder, key)
  else if (choice === 1) Reflect.set(holder, random.pick(['toString', 'extra', 'length', '0', key]), 1)
  else if (choice === 2 && Array.isArray(holder)) holder.push(holder[Number(key)])
  else if (choice === 3) {
    const other = random.pick(places)
    Reflect.set(holder, key, structuredClone(Reflect.get(other.holder, other.key)))
  } else if (choice === 4 && typeof Reflect.get(holder, key) === 'number') {
    Reflect.set(holder, key, random.chance(0.5) ? oddNumber(random) : Reflect.get(holder, key) + random.pick([-1, 1]))
  } else Reflect.set(holder, key, random.pick(ODD_VALUES)())
  // A holder that became an array with holes or lost its length is still JSON.
  return copy
}
