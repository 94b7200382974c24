/**
 * What happens to a volume's lock beside opening and closing: it is broken from another host while its client works, its holder
 * stopped or cut off or well; or it moves in a live migration, which is completed, called off, or cut short by a death. The former
 * client keeps knocking, and must get nothing.
 */
import { SheepError } from '../../lib/errors.js'
import type { Lineage } from './checker.js'
import type { Host, Sheep } from './host.js'
import type { SimRandom } from './random.js'
import { Session } from './session.js'
import type { World } from './world.js'

/** What a takeover needs of the volume's client. */
export interface Owner {
  readonly world: World
  readonly random: SimRandom
  readonly name: string
  readonly lineage: Lineage
  /** One random request; resolves when it is answered, or the session is over */
  request(session: Session): Promise<void>
  mayWait(error: unknown, since: number): boolean
}

const MIGRATION_MS = 3_600_000
const TRIES_MAX = 40

type Answer = 'done' | 'not-locked' | 'gave up'

/** Takes the volume from `session`. Null: nobody has it open now. */
export async function takeAway(owner: Owner, session: Session): Promise<null> {
  const { world, random } = owner
  const working = work(owner, session, 2000)
  if (random.chance(0.4)) world.planner.pause(session.host)
  await world.sleep(random.exponential(100))
  const holder = session.host.sheep?.cluster.self.id
  const broken = await ask(owner, `break of ${owner.name}`, session.host, async (sheep) => {
    const { vid } = sheep.volumes.find(owner.name, '')
    const lock = sheep.vdis.locks().find((one) => one.vid === vid)
    if (lock === undefined) throw new SheepError('not-locked', 'nobody has it open')
    if (lock.node !== holder) throw new SheepError('busy', 'hearsay of an older lock')
    await sheep.vdis.breakLock(sheep.volumes.find(owner.name, ''), lock)
  })
  if (broken === 'done') {
    session.fence()
    void session.knock(random.split())
  } else {
    // Its daemon has gone, or who was asked has died: the lock may be free, or on its way to be.
    session.abandon()
  }
  await working
  return null
}

/** The session that has the volume afterwards. */
export async function migrate(owner: Owner, source: Session): Promise<Session | null> {
  const { world, random } = owner
  const host = pick(owner, source.host)
  if (host === null) return source
  const to = host.sheep!.cluster.self.id
  const working = work(owner, source, 3000)
  const announced = await ask(owner, `migration of ${owner.name} to ${host.name}`, null, (sheep) =>
    sheep.vdis.announceMigration(sheep.volumes.find(owner.name, ''), random.chance(0.7) ? to : '', MIGRATION_MS),
  )
  const target = announced === 'done' ? await openBeside(owner, host) : null
  if (target === null) {
    await working
    return left(source)
  }
  for (let i = random.between(0, 3); i > 0 && !target.ended; i--) {
    const count = Math.min(owner.lineage.cells, random.between(1, 16))
    await Promise.race([target.read(random.below(owner.lineage.cells - count + 1), count), world.sleep(3000)])
  }
  const end = random.float()
  if (end < 0.15) {
    world.log(`the migration of ${owner.name} fails`)
    await Promise.race([target.close(), world.sleep(3000)])
    target.abandon()
    await working
    return left(source)
  }
  if (end < 0.3) {
    await ask(owner, `cancelling the migration of ${owner.name}`, null, (sheep) =>
      sheep.vdis.cancelMigration(sheep.volumes.find(owner.name, '')),
    )
    target.abandon()
    await working
    return left(source)
  }
  if (end < 0.4) world.planner.kill(source.host)
  else if (end < 0.5) world.planner.pause(source.host)
  else if (end < 0.6) {
    await ask(owner, `finishing the migration of ${owner.name}`, null, (sheep) =>
      sheep.vdis.finishMigration(sheep.volumes.find(owner.name, '')),
    )
  } else if (end < 0.8) {
    // As QEMU does it: the machine stops at the source, what it wrote is flushed, then it goes on at the target.
    await working
    await Promise.race([source.flush(), world.sleep(3000)])
  }
  source.quiet = true
  const moved = await firstWrite(owner, target)
  if (!moved) {
    target.abandon()
    source.abandon()
    await working
    return null
  }
  target.beside = false
  source.fence()
  owner.lineage.opened()
  void source.knock(random.split())
  await working
  return left(target)
}

function left(session: Session): Session | null {
  return session.ended ? null : session
}

/** Whether a write is answered, and not with an error: then the volume is the target's alone. */
async function firstWrite(owner: Owner, target: Session): Promise<boolean> {
  const { world, random } = owner
  const { cells } = owner.lineage
  const count = Math.min(cells, random.between(1, 8))
  let answered = false
  const write = target
    .write(random.below(cells - count + 1), count, world.workload.nextStamp(), random.chance(0.2))
    .then(() => {
      answered = !target.ended && !target.revoked && target.acknowledged > 0
    })
  // A client that loses patience here looks like one whose machine failed on arrival.
  await Promise.race([write, world.sleep(60_000)])
  return answered
}

async function openBeside(owner: Owner, host: Host): Promise<Session | null> {
  const { world, name, lineage } = owner
  const request = { name, snapshot: '', readOnly: false, holder: 'a target', shareable: false }
  let abandoned = false
  const opening = host.request(`open ${name} beside its writer`, async (sheep) => {
    const volume = await sheep.volumes.open(request)
    if (abandoned) await volume.close()
    return volume
  })
  const outcome = await Promise.race([opening, world.sleep(20_000).then(() => null)])
  if (outcome === null) {
    abandoned = true
    return null
  }
  if (outcome.state === 'done') {
    const session = new Session(world, host, outcome.value, lineage)
    session.beside = true
    return session
  }
  if (outcome.state === 'failed' && !owner.mayWait(outcome.error, world.scheduler.now)) {
    world.unexpected(`open of ${name} beside its writer`, outcome.error)
  }
  return null
}

/** Requests for a while, or until the session is over. */
async function work(owner: Owner, session: Session, ms: number): Promise<void> {
  const { world, random } = owner
  const until = world.scheduler.now + random.float() * ms
  const depth = random.pick([1, 3, 6])
  await Promise.all(
    Array.from({ length: depth }, async () => {
      while (!session.ended && !session.quiet && !session.isFenced && world.scheduler.now < until) {
        await Promise.race([owner.request(session), world.sleep(ms)])
        await world.sleep(random.exponential(5))
      }
    }),
  )
}

function pick(owner: Owner, not: Host | null): Host | null {
  const able = owner.world.hosts.filter((host) => host !== not && host.up && !host.paused && host.sheep)
  return able.length > 0 ? owner.random.pick(able) : null
}

/** Asks one host after the other until the answer is certain. */
async function ask(
  owner: Owner,
  what: string,
  not: Host | null,
  call: (sheep: Sheep) => Promise<unknown>,
): Promise<Answer> {
  const { world, random } = owner
  const begun = world.scheduler.now
  for (let tries = 0; tries < TRIES_MAX && !world.workload.closing; tries++) {
    const host = pick(owner, not)
    if (host !== null) {
      world.log(`${what} at ${host.name}`)
      const outcome = await host.request(what, async (sheep) => call(sheep))
      world.log(`${what}: ${outcome.state}${outcome.state === 'failed' ? ` ${String(outcome.error)}` : ''}`)
      if (outcome.state === 'done') return 'done'
      if (outcome.state === 'failed') {
        if (outcome.error instanceof SheepError && outcome.error.code === 'not-locked') return 'not-locked'
        if (!owner.mayWait(outcome.error, begun)) {
          world.unexpected(what, outcome.error)
          return 'gave up'
        }
      }
    }
    await world.sleep(random.between(50, 500))
  }
  return 'gave up'
}
