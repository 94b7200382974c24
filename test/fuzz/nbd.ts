/**
 * NBD, handshake and transmission: conversations of a careless or hostile client. Whatever it says, the connection answers or
 * ends, and when it has ended no volume, request or buffer is left.
 */
import { slabBytes } from '../../lib/host/slab.js'
import { Connection } from '../../lib/nbd/connection.js'
import * as nbd from '../../lib/nbd/constants.js'
import { Exports } from '../../lib/nbd/exports.js'
import type { SimRandom } from '../simulation/random.js'
import { MemoryOpener, type MemoryVolume } from '../support/memory-volume.js'
import { infoRequest, metaContext, words } from '../support/nbd-client.js'
import { type Harness, requireNoSlabs, turnsUntil } from './harness.js'
import { Conversation } from './memory-socket.js'
import { damaged, disordered, oddNumber, randomBytes, split } from './mutate.js'

const SIZE = 1 << 16
const NAMES = ['disk', 'disk', 'disk@before', '', '@', 'disk@', 'nothing', 'x'.repeat(600)]

function optionBytes(option: number, data: Buffer): Buffer {
  return Buffer.concat([words(...nbd.OPTION_MAGIC, option, data.length), data])
}

function option(random: SimRandom): Buffer {
  const name = random.pick(NAMES)
  const queries = Array.from({ length: random.below(4) }, () => random.pick([nbd.META_CONTEXT, 'base:', '', 'qemu:x']))
  const data = [
    () => Buffer.alloc(0),
    () => Buffer.from(name),
    () => randomBytes(random, random.below(60)),
    () =>
      infoRequest(
        name,
        Array.from({ length: random.below(5) }, () => random.below(5)),
      ),
    () => metaContext(name, queries),
  ]
  return optionBytes(random.chance(0.9) ? random.below(12) : oddNumber(random), random.pick(data)())
}

function entrance(random: SimRandom): Buffer[] {
  const name = random.pick(['disk', 'disk@before'])
  if (random.chance(0.3)) return [optionBytes(nbd.OPT_EXPORT_NAME, Buffer.from(name))]
  const go = optionBytes(nbd.OPT_GO, infoRequest(name))
  if (random.chance(0.3)) return [go]
  return [
    optionBytes(nbd.OPT_STRUCTURED_REPLY, Buffer.alloc(0)),
    optionBytes(nbd.OPT_SET_META_CONTEXT, metaContext(name, [nbd.META_CONTEXT])),
    go,
  ]
}

function request(random: SimRandom): Buffer {
  const type = random.chance(0.95) ? random.below(9) : oddNumber(random) & 0xffff
  const flags = random.chance(0.6) ? 0 : random.pick([1, 2, 4, 8, 16, 18, oddNumber(random) & 0xffff])
  const length = random.chance(0.85) ? random.below(9000) : oddNumber(random)
  const low = random.chance(0.85) ? random.below(SIZE) : oddNumber(random)
  const high = random.chance(0.95) ? 0 : oddNumber(random)
  const announced = type === nbd.CMD_WRITE && length < 70_000 && random.chance(0.9) ? length : random.below(20) && 0
  const head = words(nbd.REQUEST_MAGIC, flags * 65_536 + type, random.u32(), random.u32(), high, low, length)
  return Buffer.concat([head, Buffer.alloc(announced, 7)])
}

function messages(random: SimRandom): Buffer[] {
  const flags = words(random.chance(0.9) ? random.below(4) : oddNumber(random))
  if (random.chance(0.3)) return [flags, ...Array.from({ length: random.below(9) }, () => option(random))]
  const requests = Array.from({ length: random.below(14) }, () => request(random))
  return [flags, ...entrance(random), ...requests]
}

function make(random: SimRandom): Buffer[] {
  if (random.chance(0.02)) return split(random, randomBytes(random, random.below(300)))
  const said = random.chance(0.3) ? disordered(random, messages(random)) : messages(random)
  const bytes = Buffer.concat(said)
  return split(random, random.chance(0.6) ? damaged(random, bytes, request(random)) : bytes)
}

const openers = (['inline', 'soon'] as const).map((timing) => {
  const opener = new MemoryOpener({ timing })
  opener.add('disk', SIZE)
  opener.add('disk', SIZE / 2, { tag: 'before', snapshotTime: 1 })
  return opener
})

async function take(input: readonly Buffer[], random: SimRandom): Promise<boolean> {
  const before = slabBytes().taken
  const opener = random.pick(openers)
  opener.volumes.length = 0
  opener.requests.length = 0
  const exports = new Exports(opener, () => {})
  let gone = false
  const talk = new Conversation((stream) => {
    const connection = new Connection(
      stream,
      '/fuzz',
      exports,
      null,
      () => {},
      () => {
        gone = true
      },
    )
    return connection.handler
  })
  const revoked = random.chance(0.02)
  const failing = random.chance(0.05) ? -random.pick([5, 28, 108]) : 0
  await talk.say(input, random, () => {
    const volume: MemoryVolume | undefined = opener.volumes[0]
    if (volume === undefined) return
    volume.failWith = failing
    if (revoked && random.chance(0.2)) volume.onChange?.('revoked')
  })
  talk.hangUp()
  await turnsUntil(() => gone, 'the end of the connection')
  await exports.idle()
  for (const volume of opener.volumes) if (!volume.closed) throw new Error('a volume was left open')
  requireNoSlabs(before)
  return opener.volumes.length > 0
}

export const nbdHarness: Harness = { make, take }
