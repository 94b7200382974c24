/** The control protocol: JSON verbs and volume transfers, damaged in their bytes and in their JSON. */
import { ControlSession } from '../../lib/control/session.js'
import { VERBS } from '../../lib/control/verbs.js'
import { encodeResponse, HEADER_LENGTH, OP } from '../../lib/protocol/header.js'
import type { SimRandom } from '../simulation/random.js'
import { FakeServices } from '../support/fake-services.js'
import type { Harness } from './harness.js'
import { arriving, converse, message, wanting } from './link.js'
import { damagedJson, oddNumber } from './mutate.js'

const SIZE = 1 << 16
const NODE = '1'.repeat(16)

const ARGUMENTS: Record<string, unknown> = {
  name: 'disk',
  newName: 'other',
  source: 'disk',
  snapshot: 'monday',
  tag: 'tuesday',
  size: SIZE,
  copies: 2,
  blockSizeShift: 22,
  index: 0,
  node: NODE,
  lines: 3,
  repair: false,
  force: false,
  shrink: false,
  preallocate: true,
  holder: { node: NODE, session: 's' },
  to: '',
  seconds: 5,
}

/** Verb -> the arguments that it takes, found by asking it. */
function takes(verb: keyof typeof VERBS): Record<string, unknown> {
  const taken: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(ARGUMENTS)) {
    try {
      VERBS[verb].arguments({ [name]: value }, verb)
      taken[name] = value
    } catch (error) {
      if (!/has no field/.test((error as Error).message)) taken[name] = value
    }
  }
  return taken
}

const REQUESTS = (Object.keys(VERBS) as (keyof typeof VERBS)[]).map((verb) => ({ verb, arguments: takes(verb) }))
const OPENS = ['disk', 'disk', 'web 東京', 'none'].flatMap((name) => [
  { name, snapshot: '', readOnly: false },
  { name, snapshot: 'monday', readOnly: true },
])

function json(random: SimRandom, value: unknown): Buffer {
  const text = JSON.stringify(random.chance(0.5) ? value : damagedJson(random, value)) ?? ''
  if (random.chance(0.01)) return Buffer.from('['.repeat(60_000))
  return Buffer.from(text)
}

function place(offset: number, handle: number): Buffer {
  const fields = Buffer.alloc(32)
  fields.writeUInt32LE(offset >>> 0, 0)
  fields.writeUInt32LE(handle >>> 0, 8)
  return fields
}

function request(random: SimRandom): Buffer {
  const id = random.below(40)
  const nothing = Buffer.alloc(32)
  const offset = random.chance(0.9) ? random.below(SIZE) : oddNumber(random)
  const handle = random.chance(0.9) ? 1 + random.below(3) : oddNumber(random)
  const length = random.chance(0.9) ? random.below(20_000) : oddNumber(random)
  switch (random.below(9)) {
    case 0:
    case 1:
    case 2:
      return message(OP.CONTROL, 0, 0, id, nothing, json(random, random.pick(REQUESTS)))
    case 3:
    case 4:
      return message(OP.VOLUME_OPEN, 0, 0, id, nothing, json(random, random.pick(OPENS)))
    case 5:
      return wanting(message(OP.VOLUME_READ, 0, 0, id, place(offset, handle)), length)
    case 6:
      return message(OP.VOLUME_WRITE, 0, 0, id, place(offset, handle), Buffer.alloc(length % 70_000, 9))
    case 7:
      return message(OP.VOLUME_FLUSH, 0, 0, id, place(0, handle))
    default:
      return message(OP.VOLUME_CLOSE, 0, 0, id, place(0, handle))
  }
}

function make(random: SimRandom): Buffer[] {
  const messages = Array.from({ length: random.below(14) }, () => request(random))
  // Most of it is about a volume that is open.
  if (random.chance(0.7)) {
    messages.unshift(message(OP.VOLUME_OPEN, 0, 0, 99, Buffer.alloc(32), Buffer.from(JSON.stringify(OPENS[0]))))
  }
  return arriving(random, messages, request(random))
}

async function take(input: readonly Buffer[], random: SimRandom): Promise<boolean> {
  const services = new FakeServices()
  services.volumes.entries.length = 0
  services.volumes.add('disk', SIZE, { tag: 'monday', snapshotTime: 1 })
  services.volumes.add('disk', SIZE, { vid: 7, snapId: 2, parent: 1 })
  services.volumes.add('web 東京', SIZE, { vid: 9 })
  const answers = await converse(
    input,
    random,
    (link) => {
      const session = new ControlSession(services, 'fuzz', (id, result, payload) => {
        if (!link.open) return
        const header = Buffer.allocUnsafe(HEADER_LENGTH)
        encodeResponse(header, 0, OP.CONTROL, id, result, payload?.length ?? 0)
        link.send(header, payload, 0, payload?.length ?? 0)
      })
      return {
        message: (_link, bytes, at, payloadAt, length, hold) => session.request(bytes, at, payloadAt, length, hold),
        closed: () => session.closed(),
      }
    },
    () => services.volumes.volumes.every((volume) => volume.closed),
  )
  const bug = services.logged.find((line) => line.startsWith('error: control request'))
  if (bug !== undefined) throw new Error(services.logged.join('\n'))
  return answers.length > 0
}

export const controlHarness: Harness = { make, take }
