/**
 * Copies that are made by reading and writing, and come to share what is equal (lib/fuse/copies.ts): a new volume with all that a snapshot
 * holds; and a volume into which somebody writes what is there anyway, so that it has its own object with its snapshot's bytes. No
 * client may see that anything was shared.
 */
import { SheepError } from '../../lib/errors.js'
import { shareEqual } from '../../lib/fuse/sharing.js'
import type { FileVolume } from '../../lib/gateway/types.js'
import type { Clock, Completion } from '../../lib/host/interfaces.js'
import { completed } from '../../lib/store/completed.js'
import type { Host, Sheep } from './host.js'
import type { SimRandom } from './random.js'
import type { Session } from './session.js'
import type { World } from './world.js'

const DIFFERENT = -18
const ENOSPC = -28
const ESHUTDOWN = -108
const ETIMEDOUT = -110
const EIO = -5

/** A request that failed, as requests may when a lock, a host, the quorum or the last free space goes. */
class Failed extends Error {
  constructor(readonly errno: number) {
    super(`errno ${errno}`)
  }
}

async function must(start: (done: Completion) => void): Promise<void> {
  const result = await completed(start)
  if (result < 0) throw new Failed(result)
}

/** True: all of snapshot `name@tag` is in the volume `copy`, flushed, and some of it may be shared. False: the workload ends. */
export async function copySnapshot(
  world: World,
  random: SimRandom,
  pick: () => Host | null,
  name: string,
  tag: string,
  copy: string,
): Promise<boolean> {
  const { workload, planner } = world
  while (!workload.closing) {
    await world.sleep(500)
    const host = pick()
    // A flush that does not wait for all copies promises nothing.
    if (host === null || planner.allCopiesMayBeAway()) continue
    const losses = workload.powerLosses
    const copied = await copyAt(world, random, host, name, tag, copy)
    if (copied && losses === workload.powerLosses && !planner.allCopiesMayBeAway()) return true
  }
  return false
}

async function copyAt(
  world: World,
  random: SimRandom,
  host: Host,
  name: string,
  tag: string,
  copy: string,
): Promise<boolean> {
  const outcome = await host.request(`copy of ${name}@${tag} to ${copy}`, async (sheep) => {
    const source = await open(sheep, name, tag)
    try {
      const target = await open(sheep, copy, '')
      try {
        await copyObjects(world, random, host, source, target)
        await must((done) => target.flush(done))
      } finally {
        await target.close()
      }
    } finally {
      await source.close()
    }
  })
  world.log(`copy of ${name}@${tag} to ${copy}: ${outcome.state}`)
  return outcome.state === 'done'
}

async function copyObjects(
  world: World,
  random: SimRandom,
  host: Host,
  source: FileVolume,
  target: FileVolume,
): Promise<void> {
  const { objectSize } = target
  const shared: Promise<void>[] = []
  for (let at = 0; at < target.size; at += objectSize) {
    const bytes = await objectOf(source, at / objectSize)
    const piece = random.pick([4096, 16_384, objectSize])
    for (let from = 0; from < bytes.length; from += piece) {
      const length = Math.min(piece, bytes.length - from)
      if (bytes.subarray(from, from + length).every((byte) => byte === 0)) continue
      await must((done) => target.write(bytes, from, length, at + from, false, done))
    }
    if (random.chance(0.8)) shared.push(share(world, host, target, source, at / objectSize))
    if (random.chance(0.5)) await Promise.all(shared.splice(0))
  }
  await Promise.all(shared)
}

/** What a volume's client does now and then: writes an object as it is, and has it shared while other requests go on. */
export async function rewrite(
  world: World,
  random: SimRandom,
  session: Session,
  name: string,
  tag: string,
  meanwhile: () => Promise<void>,
): Promise<void> {
  const volume = session.volume as FileVolume
  const outcome = await session.host.request(`rewriting ${name}`, async (sheep) => {
    const source = await open(sheep, name, tag)
    try {
      if (volume.entry.parent !== source.entry.vid) return
      const { objectSize } = volume
      const objects = Math.ceil(Math.min(volume.size, source.size) / objectSize)
      const first = random.below(objects)
      for (let i = 0; i < Math.min(objects, 6); i++) {
        const index = (first + i) % objects
        const bytes = await objectOf(volume, index)
        // Some that differ, too
        if (!bytes.equals((await objectOf(source, index)).subarray(0, bytes.length)) && random.chance(0.8)) continue
        await must((done) => volume.write(bytes, 0, bytes.length, index * objectSize, false, done))
        const busy = random.chance(0.5) ? meanwhile() : Promise.resolve()
        await share(world, session.host, volume, source, index)
        await busy
      }
    } finally {
      await source.close()
    }
  })
  world.log(`rewriting ${name}: ${outcome.state}`)
}

async function objectOf(volume: FileVolume, index: number): Promise<Buffer> {
  const at = index * volume.objectSize
  const bytes = Buffer.alloc(Math.min(volume.objectSize, volume.size - at))
  await must((done) => volume.read(bytes, 0, bytes.length, at, done))
  return bytes
}

async function open(sheep: Sheep, name: string, snapshot: string): Promise<FileVolume> {
  const request = { name, snapshot, readOnly: snapshot !== '', holder: 'a copying program', shareable: snapshot !== '' }
  return (await sheep.volumes.open(request)) as FileVolume
}

async function share(world: World, host: Host, volume: FileVolume, snapshot: FileVolume, index: number): Promise<void> {
  const { scheduler } = world
  const process = host.process!
  const clock: Clock = {
    now: () => scheduler.now,
    wall: () => scheduler.now,
    after: (ms, fn) => scheduler.after(ms, () => process.enter(fn, 'timer')),
  }
  const { cluster } = host.sheep!
  const result = await shareEqual({ clock, cluster, log: () => {} }, volume, snapshot, index).catch(
    (error: unknown) => {
      // It stays a copy, as for CopyWatch: the daemon stops, or is without quorum.
      if (!(error instanceof SheepError)) throw error
      return ESHUTDOWN
    },
  )
  world.log(`sharing object ${index} of ${volume.entry.name}: ${result}`)
  if (![0, DIFFERENT, ENOSPC, ESHUTDOWN, ETIMEDOUT, EIO].includes(result)) {
    world.verdict.report('sharing failed', `object ${index} of ${volume.entry.name}: ${result}`)
  }
}
