/** libvirt's qemu hook: what each operation decides by the cluster's locks, and the script as libvirt runs it. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import anyTest, { type ExecutionContext, type TestFn } from 'ava'
import { SheepError } from '../../../lib/errors.js'
import type { Places } from '../../../lib/libvirt/domain-xml.js'
import { type HookCluster, type HookLock, type HookOperation, runHook } from '../../../lib/libvirt/hook.js'
import { dogProgram } from '../../support/cluster.js'
import { listenControl } from '../../support/control-listener.js'
import { domainXml, fileDisk, nbdDisk, otherDisk, places } from '../../support/domains.js'
import { FakeServices } from '../../support/fake-services.js'
import { type Outcome, run } from '../../support/process.js'

const test = anyTest as TestFn<{ directory: string }>
const script = join(import.meta.dirname, '..', '..', '..', '..', 'libvirt-hooks', 'qemu')
const [here, there] = ['0'.repeat(16), '1'.repeat(16)]

class World implements HookCluster {
  held: HookLock[] = []
  elsewhere: Places[] = []
  down = false
  waited = 0
  readonly said: string[] = []
  /** Called with each wait */
  onWait: () => void = () => {}

  hold(volume: string, node: string, mode = 'write', to: string | null = null): this {
    const nodeName = node === here ? 'host0:7000' : 'host1:7000'
    this.held.push({ volume, mode, node, nodeName, holder: 'QEMU', migration: to === null ? null : { to } })
    return this
  }

  self = async () => here
  places = async () => {
    if (this.down) throw new SheepError('unreachable', 'cannot reach a sheep daemon')
    return places
  }

  everywhere = async () => [places, ...this.elsewhere]
  locks = async () => this.held
  announce = async (volume: string) => void this.said.push(`announce ${volume}`)
  cancel = async (volume: string) => void this.said.push(`cancel ${volume}`)
  sleep = async (ms: number) => {
    this.waited += ms
    this.onWait()
  }
}

const web = domainXml('web1', [nbdDisk('web', 'vda'), fileDisk('data', 'vdb'), otherDisk('vdc')])
/** A machine that is none of ours waits no longer */
const NOTHING_MS = 50
const ROUNDS_MAX = 10
const STARTS = ['prepare', 'start', 'attach'] as const

async function refusal(operation: HookOperation, xml: string, world: World): Promise<string> {
  try {
    await runHook(operation, xml, world)
    return ''
  } catch (error) {
    if (error instanceof SheepError) return `${error.message}; ${error.hint}`
    throw error
  }
}

test('a volume that another host has open stops the start, with the name of that host', async (t) => {
  for (const operation of STARTS) {
    t.is(await runHook(operation, web, new World().hold('unrelated', there)), '')
    for (const volume of ['web', 'data']) {
      const said = await refusal(operation, web, new World().hold(volume, there))
      t.true(said.includes(`web1 cannot start here: its volume ${volume} is open on host1:7000, by QEMU`), said)
    }
  }
})

test('a volume in use on this host stops a start too, unless its disk is shareable', async (t) => {
  t.regex(await refusal('prepare', web, new World().hold('web', here)), /open on this host already/)
  t.is(await refusal('start', web, new World().hold('web', here)), '', 'QEMU itself, maybe')
  const shared = domainXml('web1', [nbdDisk('web', 'vda', places.nbd, '<shareable/>')])
  t.is(await refusal('prepare', shared, new World().hold('web', here)), '')
  t.regex(await refusal('prepare', shared, new World().hold('web', there)), /host1/)
})

test('readers of a snapshot do not stop each other', async (t) => {
  const cd = domainXml('web1', [nbdDisk('web@gold', 'sda', places.nbd, '<readonly/>')])
  t.is(await refusal('prepare', cd, new World().hold('web@gold', there, 'read')), '')
  t.is(await refusal('prepare', cd, new World().hold('web', there)), '')
  const disk = domainXml('web1', [nbdDisk('web', 'vda')])
  t.regex(await refusal('prepare', disk, new World().hold('web', there, 'read')), /host1/)
})

test('one that is about to be closed is waited for, for a few seconds', async (t) => {
  const world = new World().hold('web', there)
  world.onWait = () => {
    if (world.waited >= 1_000) world.held = []
  }
  t.is(await refusal('prepare', web, world), '')
  t.is(world.waited, 1_000)
  const stays = new World().hold('web', there)
  t.not(await refusal('prepare', web, stays), '')
  t.true(stays.waited <= 5_000)
})

test('an incoming migration: announced, let in, and ended when it does not stay', async (t) => {
  const world = new World().hold('web', there).hold('data', there)
  t.is(await runHook('migrate', web, world), '')
  t.deepEqual(world.said, ['announce web', 'announce data'])
  const announced = new World().hold('web', there, 'write', here)
  t.is(await refusal('prepare', web, announced), '')
  t.is(await refusal('start', web, announced.hold('web', here, 'target')), '')
  await runHook('release', web, announced)
  t.deepEqual(announced.said, ['cancel web'])
  t.regex(await refusal('prepare', web, new World().hold('web', there, 'write', '2'.repeat(16))), /host1/)
  const source = new World().hold('web', here, 'write', there)
  await runHook('release', web, source)
  t.deepEqual(source.said, [], "the source's end is not the target's")
})

test('a machine whose QEMU has not come back for one of its volumes is not let in: it would stand still at the end', async (t) => {
  const world = new World().hold('web', there)
  t.regex(await refusal('migrate', web, world), /web1 cannot come here yet: .* host1:7000 has not used data .*vdb/)
  t.deepEqual(world.said, [])
  const seed = fileDisk('seed@1', 'vdb').replace('</disk>', '<readonly/></disk>')
  t.is(
    await refusal('migrate', domainXml('web1', [nbdDisk('web', 'vda'), seed]), world),
    '',
    'who only reads opens it anew',
  )
  t.is(await refusal('migrate', web, new World()), '', 'a machine that does not run has nothing open')
})

test("the paths of another host become this one's, in a migration and in a restore", async (t) => {
  const foreign = web.replaceAll(places.nbd, '/srv/b/nbd.sock').replaceAll(places.volumes, '/srv/b/volumes')
  for (const operation of ['migrate', 'restore'] as const) {
    const world = new World().hold('web', there).hold('data', there)
    world.elsewhere = [{ nbd: '/srv/b/nbd.sock', volumes: '/srv/b/volumes' }]
    const xml = await runHook(operation, foreign, world)
    t.true(xml.includes(places.nbd) && xml.includes(`${places.volumes}/data`) && !xml.includes('/srv/b/'), xml)
    t.deepEqual(world.said, operation === 'migrate' ? ['announce web', 'announce data'] : [])
  }
})

test('without a daemon only what is surely a sheepdog disk is refused', async (t) => {
  const down = new World()
  down.down = true
  t.is(await refusal('prepare', domainXml('x', [nbdDisk('a', 'vda', '/run/other.sock')]), down), '')
  t.regex(await refusal('prepare', domainXml('x', [fileDisk('a', 'vda')]), down), /cannot reach a sheep daemon/)
  t.is(await refusal('release', domainXml('x', [fileDisk('a', 'vda')]), down), '')
})

// --- the script

test.before((t) => {
  t.context.directory = mkdtempSync(join(tmpdir(), 'sheep-hook-'))
})
test.after.always((t) => rmSync(t.context.directory, { recursive: true, force: true }))

/** As libvirt does: nothing in the environment but PATH. `dog`: what stands in for it */
async function hook(t: ExecutionContext<{ directory: string }>, operation: string, xml: string, dog: string) {
  const program = join(t.context.directory, `dog-${operation}-${Math.abs(hash(xml + dog))}`)
  writeFileSync(program, dog)
  chmodSync(program, 0o755)
  const words = ['-i', 'PATH=/usr/bin:/bin', `SHEEPDOG_DOG=${program}`, '/bin/sh', script]
  return run('env', [...words, 'web1', operation, 'begin', '-'], { input: xml, limit: 60_000 })
}

function hash(text: string): number {
  let sum = 0
  for (const character of text) sum = (Math.imul(sum, 31) + character.charCodeAt(0)) | 0
  return sum
}

const quiet = ({ code, stdout, stderr }: Outcome) => `${code}|${stdout}|${stderr}`
const trap = '#!/bin/sh\necho it was called\nexit 1\n'
const plain = domainXml('plain', [otherDisk('vda')], 'kvm', '<!-- sheepdog -->')

test('script: a machine without sheepdog disks costs under 50 ms, and nothing is asked', async (t) => {
  t.timeout(60_000)
  let slowest = Number.POSITIVE_INFINITY
  // What else runs on this machine slows some rounds down, not all.
  for (let round = 0; round === 0 || (slowest >= NOTHING_MS && round < ROUNDS_MAX); round++) {
    slowest = 0
    for (const operation of ['prepare', 'start', 'started', 'stopped', 'release', 'migrate', 'restore', 'attach']) {
      const outcome = await hook(t, operation, plain, trap)
      t.is(quiet(outcome), '0||', operation)
      slowest = Math.max(slowest, outcome.ms)
    }
  }
  t.log(`the slowest of its operations took ${slowest.toFixed(1)} ms`)
  t.true(slowest < NOTHING_MS, `${slowest} ms`)
})

test('script: reconnect, and what libvirt may call in years to come, never fails and asks nobody', async (t) => {
  for (const operation of ['reconnect', 'started', 'stopped', 'what-comes-next', '']) {
    t.is(quiet(await hook(t, operation, web, trap)), '0||', operation)
  }
  t.is(quiet(await hook(t, 'release', web, '#!/bin/sh\ncat >/dev/null\nexit 1\n')), '0||')
})

test('script: what dog says is what libvirt hears', async (t) => {
  const filter = '#!/bin/sh\nprintf \'%s;\' "$@"\ncat\n'
  const passed = await hook(t, 'migrate', web, filter)
  t.is(passed.code, 0)
  t.is(passed.stdout, `--timeout;25;libvirt;hook;web1;migrate;${web}`)
  const refused = await hook(t, 'prepare', web, '#!/bin/sh\ncat >/dev/null\necho open on host1 >&2\nexit 6\n')
  t.is(quiet(refused), '1||open on host1\n')
})

test('script: a dog that is not there stops only machines that surely have sheepdog disks', async (t) => {
  const words = (xml: string) =>
    run('env', ['-i', 'PATH=/usr/bin:/bin', 'SHEEPDOG_DOG=/nonexistent/dog', '/bin/sh', script, 'x', 'prepare'], {
      input: xml,
    })
  t.is((await words(domainXml('x', [nbdDisk('a', 'vda', '/run/other.sock')]))).code, 0)
  t.is((await words(domainXml('x', [fileDisk('a', 'vda')]))).code, 1)
  t.is((await words(plain)).code, 0)
})

test('script, dog and a daemon: refused with the name of the host, let in as a migration', async (t) => {
  t.timeout(60_000)
  const services = new FakeServices()
  const listener = await listenControl(services)
  t.teardown(() => listener.close())
  const dog = `#!/bin/sh\nexec ${process.execPath} ${dogProgram} -p ${listener.port} "$@"\n`
  const xml = domainXml('web1', [nbdDisk('disk', 'vda', '/srv/store0/nbd.sock')])
  const refused = await hook(t, 'prepare', xml, dog)
  t.is(refused.code, 1)
  t.regex(refused.stderr, /dog: web1 cannot start here: its volume disk is open on host1:7001, by NBD client/)
  const foreign = xml.replace('/srv/store0', '/srv/store1')
  const migrated = await hook(t, 'migrate', foreign, dog)
  t.is(migrated.code, 0, migrated.stderr)
  t.regex(migrated.stdout, /socket="\/srv\/store0\/nbd\.sock"/)
  t.is(services.migrations.get(0xab12ce)?.to, here)
  t.is(quiet(await hook(t, 'prepare', xml, dog)), '0||')
  t.is(quiet(await hook(t, 'release', xml, dog)), '0||')
  t.is(services.migrations.size, 0)
  t.is(quiet(await hook(t, 'prepare', domainXml('x', [nbdDisk('disk', 'vda', '/run/other.sock')]), dog)), '0||')
})

test('script: plain sh, and no call of libvirt, which waits for it', (t) => {
  const text = readFileSync(script, 'utf8')
  t.true(text.startsWith('#!/bin/sh\n'))
  t.notRegex(text.replace(/^#.*$/gm, ''), /virsh|\[\[|<<<|\blocal\b/)
})
