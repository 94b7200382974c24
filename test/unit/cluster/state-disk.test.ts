import test from 'ava'
import type { Entry } from '../../../lib/cluster/history.js'
import { ClusterState } from '../../../lib/cluster/state.js'
import { StateDisk } from '../../../lib/cluster/state-disk.js'
import type { Disk } from '../../../lib/host/interfaces.js'
import { Scheduler } from '../../simulation/clock.js'
import { SimDisk } from '../../simulation/disk.js'
import { DiskView } from '../../simulation/disk-view.js'
import { Process } from '../../simulation/process.js'
import { SimRandom } from '../../simulation/random.js'
import { Trace, Verdict } from '../../simulation/trace.js'
import { nodeInfo } from './bus.js'

const NODES = [{ ...nodeInfo(0), vnodes: 128 }]

function formatted(): ClusterState {
  const config = { clusterId: '00000000000000c1', formatTime: 1, copies: 3, blockSizeShift: 22 }
  return ClusterState.format(config, 1, { number: 1, time: 1, nodes: NODES })
}

function entry(seq: number, size = 0): Entry {
  if (seq % 10 === 0) return { seq, type: 'epoch', record: { number: 1 + seq / 10, time: seq, nodes: NODES }, left: [] }
  const command = { type: 'exclusive-enter' as const, token: `${seq}`.padEnd(Math.min(size, 60), 'x') }
  return { seq, type: 'command', sender: NODES[0].id, time: seq, command }
}

class Rig {
  readonly scheduler = new Scheduler(new Trace(false))
  readonly random: SimRandom
  readonly disk: SimDisk
  process!: Process
  view!: Disk

  constructor(seed: number) {
    this.random = new SimRandom(seed)
    const shape = { capacity: 64 << 20, latency: 0.1, syncLatency: 1, inline: 0.5 }
    this.disk = new SimDisk(this.scheduler, this.random.split(), shape)
    this.boot()
  }

  boot(): void {
    this.process = new Process('n', this.scheduler, new Verdict(), () => undefined)
    this.view = new DiskView(this.disk, this.process)
  }

  crash(power: boolean): void {
    this.process.die()
    ;(this.view as DiskView).detach()
    if (power) this.disk.powerLoss()
    this.boot()
  }

  settle(): Promise<unknown> {
    return this.scheduler.run(() => false, Number.POSITIVE_INFINITY, 100_000)
  }

  async run<T>(promise: Promise<T>): Promise<T> {
    const [result] = await Promise.all([promise, this.settle()])
    return result
  }
}

test('a crash at any instruction leaves all that was on disk, and a beginning of what was not', async (t) => {
  let torn = 0
  for (let seed = 0; seed < 80; seed++) {
    const rig = new Rig(seed)
    const reference = new Map<number, string>()
    let durable = 0
    let written = 0
    let effective = 0
    for (let life = 0; life < 6; life++) {
      const stateDisk = new StateDisk(rig.view)
      const loaded = await rig.run(stateDisk.load())
      const state = loaded?.state ?? formatted()
      if (loaded === null) {
        t.is(durable, 0, `seed ${seed}: the state is gone`)
        rig.process.enter(() => stateDisk.install(state))
      } else {
        const { seq, digest } = state.history
        t.true(seq >= durable && seq <= Math.max(written, 1), `seed ${seed}: ${durable} <= ${seq} <= ${written}`)
        if (seq < written) torn++
        t.is(digest, reference.get(seq) ?? '')
        t.true(loaded.effective >= effective && loaded.effective <= state.history.epoch.number, `seed ${seed}`)
      }
      durable = state.history.seq
      written = durable
      reference.set(durable, state.history.digest)
      effective = Math.max(effective, 1)
      // Lines of 100 to 6000 bytes a batch: several pages, so that power loss tears them.
      rig.process.dieAfter(rig.random.below(30))
      const step = (): void => {
        const from = state.history.seq + 1
        const batch = Array.from({ length: rig.random.between(1, 30) }, (_, at) => entry(from + at, 60))
        for (const one of batch) {
          state.apply(one)
          reference.set(one.seq, state.history.digest)
        }
        written = state.history.seq
        stateDisk.append(batch, (result) => {
          t.is(result, 0)
          durable = written
          if (batch.some((one) => one.type === 'epoch')) {
            stateDisk.saveEpochs(state.history.epochs)
            effective = state.history.epoch.number
          }
          if (rig.random.chance(0.2)) stateDisk.install(state)
          step()
        })
      }
      rig.process.enter(step)
      await rig.settle()
      rig.crash(rig.random.chance(0.7))
    }
  }
  t.true(torn > 10, `the disk tears batches: ${torn}`)
})

async function damagedBy(change: (rig: Rig) => void): Promise<{ state: ClusterState } | Error | null> {
  const rig = new Rig(1)
  const stateDisk = new StateDisk(rig.view)
  await rig.run(stateDisk.load())
  const state = formatted()
  stateDisk.install(state)
  for (let seq = 2; seq < 8; seq += 2) {
    const batch = [entry(seq), entry(seq + 1)]
    for (const one of batch) state.apply(one)
    await rig.run(new Promise<number>((resolve) => stateDisk.append(batch, resolve)))
  }
  change(rig)
  try {
    return await rig.run(new StateDisk(rig.view).load())
  } catch (error) {
    return error as Error
  }
}

function edit(rig: Rig, name: string, change: (text: string) => string): void {
  rig.view.writeFileAtomic(name, change(rig.view.readFile(name)!.toString('latin1')))
}

test('a damaged line is refused when a later batch stands behind it, with what to do', async (t) => {
  const found = await damagedBy((rig) => edit(rig, 'cluster/log', (text) => text.replace('"seq":4', '"seq":5')))
  t.true(found instanceof Error)
  t.regex((found as Error).message, /entry 4 is unreadable/)
  t.regex((found as Error & { hint: string }).hint, /move the directory "cluster"/)
})

test('the last batch is cut where it is torn', async (t) => {
  const found = await damagedBy((rig) => edit(rig, 'cluster/log', (text) => text.slice(0, -3)))
  t.is((found as { state: ClusterState }).state.history.seq, 6)
  const holed = await damagedBy((rig) => edit(rig, 'cluster/log', (text) => text.replace('"seq":6', '\0"seq":')))
  t.is((holed as { state: ClusterState }).state.history.seq, 5)
})

test('what no crash explains is refused', async (t) => {
  const changes: [string, (rig: Rig) => void][] = [
    ['a flipped bit in the snapshot', (rig) => edit(rig, 'cluster/snapshot.json', (text) => text.replace('n0', 'n1'))],
    ['half a snapshot', (rig) => edit(rig, 'cluster/snapshot.json', (text) => text.slice(0, 100))],
    ['no snapshot', (rig) => rig.view.unlink('cluster/snapshot.json')],
    ['a log whose first line is bad', (rig) => edit(rig, 'cluster/log', (text) => text.replace('base', 'bose'))],
    [
      'a line that is missing',
      (rig) =>
        edit(rig, 'cluster/log', (text) =>
          text
            .split('\n')
            .filter((line) => !line.includes('"seq":5,'))
            .join('\n'),
        ),
    ],
  ]
  for (const [what, change] of changes) {
    const found = await damagedBy(change)
    t.true(found instanceof Error, what)
    t.regex((found as Error).message, /damaged/, what)
  }
})

test('a log from before the snapshot is not applied to it', async (t) => {
  const found = await damagedBy((rig) => {
    const log = rig.view.readFile('cluster/log')!
    const state = formatted()
    for (let seq = 2; seq < 5; seq++) state.apply(entry(seq, 20))
    const other = new StateDisk(rig.view)
    other.install(state)
    rig.view.writeFileAtomic('cluster/log', log)
  })
  t.is((found as { state: ClusterState }).state.history.seq, 4)
})

test('the log gives way to a snapshot when it has outgrown it', async (t) => {
  const rig = new Rig(3)
  const stateDisk = new StateDisk(rig.view)
  await rig.run(stateDisk.load())
  const state = formatted()
  stateDisk.install(state)
  let largest = 0
  for (let seq = 2; seq < 20_000; seq += 500) {
    const batch: Entry[] = Array.from({ length: 500 }, (_, at) => ({
      seq: seq + at,
      type: 'command',
      sender: NODES[0].id,
      time: 1,
      command: { type: 'exclusive-leave', token: 'y'.repeat(60) },
    }))
    for (const one of batch) state.apply(one)
    await rig.run(new Promise<number>((resolve) => stateDisk.append(batch, resolve)))
    stateDisk.compact(state)
    largest = Math.max(largest, rig.disk.content('cluster/log')!.length)
  }
  t.true(largest < 1.3 * (1 << 20), `${largest} bytes`)
  const { state: loaded } = (await rig.run(new StateDisk(rig.view).load()))!
  t.is(loaded.history.digest, state.history.digest)
})

test('a disk that fails is told, and the file system stays as it was', async (t) => {
  const rig = new Rig(4)
  const stateDisk = new StateDisk(rig.view)
  await rig.run(stateDisk.load())
  const state = formatted()
  stateDisk.install(state)
  rig.disk.dead = true
  t.true((await rig.run(new Promise<number>((resolve) => stateDisk.append([entry(2)], resolve)))) < 0)
  rig.disk.dead = false
  t.is((await rig.run(new StateDisk(rig.view).load()))!.state.history.seq, 1)
})
