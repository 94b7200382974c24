/**
 * The disk of the only node that is here cannot read a part of its copy, and no checksum says what that held: all else is served, it is
 * said what is lost and where, nothing is given up unasked, and giving it up ends it.
 */
import test from 'ava'
import type { LostObject } from '../../lib/control/services.js'
import type { Volume } from '../../lib/gateway/types.js'
import { inodeOid, oidFromHex } from '../../lib/vdi/oid.js'
import { auditDisks } from '../simulation/audit.js'
import type { File } from '../simulation/disk.js'
import type { Host } from '../simulation/host.js'
import { pathOf } from '../simulation/rot.js'
import { ask, type Play, play } from './play.js'

const OBJECT = 2 ** 16
const PAGE = 4096
const HEADER = 4096
const EIO = -5
/** The page that cannot be read, within its object */
const BAD = 3 * PAGE

async function create(host: Host, copies: number): Promise<Volume> {
  const request = { name: 'vm', size: OBJECT, copies, blockSizeShift: 16, preallocate: false, onNoQuorum: null }
  await ask(host, 'create', (sheep) => sheep.vdis.create(request, { report: () => {}, cancelled: false }))
  const opening = { name: 'vm', snapshot: '', readOnly: false, holder: 'a script', shareable: false }
  return ask(host, 'open', (sheep) => sheep.volumes.open(opening))
}

async function write(host: Host, volume: Volume, byte: number, position: number, length: number): Promise<void> {
  const bytes = Buffer.alloc(length, byte)
  const result = await ask(
    host,
    'write',
    () => new Promise<number>((complete) => volume.write(bytes, 0, length, position, true, { complete })),
  )
  if (result < 0) throw new Error(`write: ${result}`)
}

/** Its bytes, all the same; or the error. */
async function read(host: Host, volume: Volume, position: number, length: number): Promise<number> {
  const bytes = Buffer.alloc(length, 255)
  const result = await ask(
    host,
    'read',
    () => new Promise<number>((complete) => volume.read(bytes, 0, length, position, { complete })),
  )
  if (result < 0) return result
  if (!bytes.equals(Buffer.alloc(length, bytes[0]))) throw new Error(`torn at ${position}`)
  return bytes[0]
}

async function expect(host: Host, volume: Volume, bad: number, rest: number, when: string): Promise<void> {
  const found = [
    await read(host, volume, 0, BAD),
    await read(host, volume, BAD, PAGE),
    await read(host, volume, BAD + PAGE, OBJECT - BAD - PAGE),
  ]
  if (found.join() !== [rest, bad, rest].join()) throw new Error(`${when}: ${found}, must be ${rest}, ${bad}, ${rest}`)
}

/** Of the data object, which is the only one */
function holders(hosts: readonly Host[]): { path: string; having: Host[] } {
  for (const host of hosts) {
    for (const path of host.usedDisks.flatMap((disk) => disk.paths())) {
      const name = /^obj\/[0-9a-f]{2}\/([0-9a-f]{16})$/.exec(path)?.[1]
      // Not the inode: bit 63
      if (name === undefined || Number.parseInt(name[0], 16) >= 8 || oidFromHex(name) < 0) continue
      return { path, having: hosts.filter((each) => each.diskWith(path) !== null) }
    }
  }
  throw new Error('nobody has the data object')
}

function spoil(host: Host, path: string): void {
  const disk = host.diskWith(path)
  const file = disk?.file(path) ?? null
  if (disk === null || file === null || !disk.spoil(file, HEADER + BAD)) throw new Error(`${path} does not spoil`)
}

const lostAt = (host: Host): Promise<LostObject[]> => ask(host, 'lost', (sheep) => sheep.lost())

async function alone(on: Play, living: readonly Host[]): Promise<void> {
  const among = (host: Host) => host.serving && host.sheep?.cluster.epoch?.nodes.length === living.length
  await on.within(60_000, 'those that are left serve', () => living.every(among))
}

async function recovered(on: Play, when: string): Promise<void> {
  await on.within(90_000, `all have recovered ${when}`, () => on.world.planner.healthy())
}

for (const end of ['given up', 'given up, as zeros', 'written anew'] as const) {
  test.serial(
    `the last copy that is here has a part that cannot be read: served but for that, listed, and ${end}`,
    async (t) => {
      t.timeout(5 * 60_000)
      let played = 0
      await play(
        async (on) => {
          const { hosts } = on
          const client = hosts[0]
          const volume = await create(client, 2)
          await write(client, volume, 1, 0, OBJECT)
          await recovered(on, 'at first')
          const { path, having } = holders(hosts)
          const away = having.find((host) => host !== client) as Host
          const last = having.find((host) => host !== away) as Host
          away.kill(0)
          away.buried = true
          spoil(last, path)
          const living = hosts.filter((host) => host !== away)
          await alone(on, living)
          let lost: LostObject[] = []
          // Whoever reads, or needs a copy, finds it.
          for (let i = 0; lost.length === 0 && i < 100; i++) {
            if ((await read(client, volume, BAD, PAGE)) !== EIO) throw new Error('what cannot be read was read')
            lost = await lostAt(client)
            await on.sleep(100)
          }
          const [one] = lost
          if (lost.length !== 1 || one.reason !== 'unreadable' || one.nodes.join() !== last.name || one.index !== 0) {
            throw new Error(`wrong: ${JSON.stringify(lost)}`)
          }
          for (const host of living) {
            const same = await lostAt(host)
            if (JSON.stringify(same) !== JSON.stringify(lost))
              throw new Error(`${host.name} says ${JSON.stringify(same)}`)
          }
          if (on.world.planner.healthy()) throw new Error('it counts as recovered')
          await expect(client, volume, EIO, 1, 'while it is lost')
          await write(client, volume, 2, 0, BAD)
          await write(client, volume, 2, BAD + PAGE, OBJECT - BAD - PAGE)
          await on.sleep(70_000)
          await expect(client, volume, EIO, 2, 'after the rest was written')
          const accepting = end !== 'written anew'
          if (accepting)
            await ask(client, 'accept', (sheep) => sheep.acceptLost([one.oid], end === 'given up, as zeros'))
          else await write(client, volume, 3, BAD, PAGE)
          const bad = accepting ? 0 : 3
          await recovered(on, 'afterwards')
          await expect(client, volume, bad, 2, 'afterwards')
          if ((await lostAt(client)).length > 0) throw new Error('something is still lost')
          away.buried = false
          away.start()
          await recovered(on, 'with the one that was away')
          await expect(client, volume, bad, 2, 'with the one that was away')
          const problem = auditDisks(on.world)
          if (problem !== '') throw new Error(problem)
          played++
          await ask(client, 'close', () => volume.close())
          await ask(client, 'delete', (sheep) => sheep.vdis.delete('vm', '', { report: () => {}, cancelled: false }))
        },
        { hosts: 4, zones: 4, copies: 2, volumes: 0, gateways: 0, disks: 1 },
        [1, 2, 3],
      )
      t.is(played, 3)
    },
  )
}

test.serial('of one copy only: served but for that, listed, and given up', async (t) => {
  await play(
    async (on) => {
      const client = on.hosts[0]
      const volume = await create(client, 1)
      await write(client, volume, 1, 0, OBJECT)
      await recovered(on, 'at first')
      const { path, having } = holders(on.hosts)
      spoil(having[0], path)
      await expect(client, volume, EIO, 1, 'while it is lost')
      const lost = await lostAt(client)
      if (lost.map(({ reason }) => reason).join() !== 'unreadable') throw new Error(`wrong: ${JSON.stringify(lost)}`)
      await ask(client, 'accept', (sheep) => sheep.acceptLost([lost[0].oid], false))
      await recovered(on, 'afterwards')
      await on.within(5_000, 'it is zeros', () => having[0].diskWith(path)?.file(path)?.bad.size === 0)
      await expect(client, volume, 0, 1, 'afterwards')
      await ask(client, 'close', () => volume.close())
      await ask(client, 'delete', (sheep) => sheep.vdis.delete('vm', '', { report: () => {}, cancelled: false }))
    },
    { hosts: 3, zones: 3, copies: 1, volumes: 0, gateways: 0, disks: 1 },
    [1, 2],
  )
  t.pass()
})

for (const resting of [false, true]) {
  test.serial(
    `a part of the index, ${resting ? 'whose checksum is known' : 'just written'}: listed, not given up, since zeros would drop data; the volume can be deleted`,
    async (t) => {
      t.timeout(5 * 60_000)
      await play(
        async (on) => {
          const { hosts } = on
          const client = hosts[0]
          const volume = await create(client, 2)
          const vid = volume.entry.vid
          const path = pathOf(inodeOid(vid))
          const having = hosts.filter((host) => host.diskWith(path) !== null)
          const away = having.find((host) => host !== client) as Host
          const last = having.find((host) => host !== away) as Host
          await write(client, volume, 1, 0, OBJECT)
          if (resting) await ask(client, 'close', () => volume.close())
          await on.within(
            30_000,
            'its checksum is taken',
            () => !resting || last.sheep?.resting(inodeOid(vid)) === true,
          )
          away.kill(0)
          away.buried = true
          // With the first entries, where the header ends
          const disk = last.diskWith(path)
          if (disk?.spoil(disk.file(path) as File, HEADER + PAGE) !== true) throw new Error(`${path} does not spoil`)
          if (!resting) await ask(client, 'close', () => volume.close())
          await alone(
            on,
            hosts.filter((host) => host !== away),
          )
          let lost: LostObject[] = []
          await on.within(30_000, 'somebody has tried to read it', () => {
            void lostAt(client).then(
              (found) => {
                lost = found
              },
              () => {},
            )
            return lost.length > 0
          })
          if (lost.map(({ index, reason }) => `${index} ${reason}`).join() !== '-1 unreadable') {
            throw new Error(`wrong: ${JSON.stringify(lost)}`)
          }
          const accepted = await ask(client, 'accept', (sheep) => sheep.acceptLost([lost[0].oid], false))
          if (accepted.length > 0) throw new Error('zeros in an index count as given up')
          await ask(client, 'delete', (sheep) => sheep.vdis.delete('vm', '', { report: () => {}, cancelled: false }))
          await recovered(on, 'after it was deleted')
          if ((await lostAt(client)).length > 0) throw new Error('something is still lost')
          away.buried = false
          away.start()
          await recovered(on, 'with the one that was away')
          await on.sleep(40_000)
          const problem = auditDisks(on.world)
          if (problem !== '') throw new Error(problem)
        },
        { hosts: 4, zones: 4, copies: 2, volumes: 0, gateways: 0, disks: 1 },
        [1, 2, 3],
      )
      t.pass()
    },
  )
}
