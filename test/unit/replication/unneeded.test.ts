import test from 'ava'
import { SheepError } from '../../../lib/errors.js'
import { newTask, type Task } from '../../../lib/replication/task.js'
import { Unneeded } from '../../../lib/replication/unneeded.js'
import { dataOid, type Oid } from '../../../lib/vdi/oid.js'
import { FakeClock } from '../vdi/world.js'

class Setting {
  readonly clock = new FakeClock()
  readonly dropped: Oid[] = []
  readonly asked: Oid[][] = []
  answer: () => Promise<ReadonlySet<Oid>> = async () => new Set()
  readonly unneeded = new Unneeded({
    clock: this.clock,
    log: () => {},
    topology: { epoch: 1 },
    reachable: (oids) => {
      this.asked.push([...oids])
      return this.answer()
    },
    drop: (task) => this.dropped.push(task.oid),
  })

  wait(vid: number, index: number): Task {
    const task = newTask(dataOid(vid, index))
    task.waitingFor = ['away']
    this.unneeded.look(task)
    return task
  }

  async turns(): Promise<void> {
    for (let turn = 0; turn < 20; turn++) await Promise.resolve()
  }
}

test('what waits and nothing refers to is dropped; each VDI is asked about once for all', async (t) => {
  const setting = new Setting()
  const needed = setting.wait(7, 1)
  const garbage = setting.wait(7, 2)
  setting.answer = async () => new Set([needed.oid])
  await setting.turns()
  t.deepEqual(setting.asked, [[needed.oid, garbage.oid]])
  t.deepEqual(setting.dropped, [garbage.oid])
})

test('one VDI that cannot be asked about holds up no other, and is asked about again', async (t) => {
  const setting = new Setting()
  setting.answer = () => new Promise(() => {})
  setting.wait(7, 1)
  await setting.turns()
  setting.answer = () => Promise.reject(new SheepError('busy', 'its gateway does not say'))
  const other = setting.wait(8, 1)
  await setting.turns()
  t.deepEqual(setting.dropped, [])
  setting.answer = async () => new Set()
  setting.clock.advance(2_000)
  await setting.turns()
  t.deepEqual(setting.dropped, [other.oid])
})

test('one that has its copy by then, runs, or is of a former epoch is left alone', async (t) => {
  const setting = new Setting()
  let reply = (_: ReadonlySet<Oid>): void => {}
  setting.answer = () => new Promise((resolve) => (reply = resolve))
  const tasks = [1, 2, 3].map((index) => setting.wait(7, index))
  await setting.turns()
  tasks[0].waitingFor = null
  tasks[1].running = true
  tasks[2].cancelled = true
  reply(new Set())
  await setting.turns()
  t.is(setting.asked.length, 1)
  t.deepEqual(setting.dropped, [])
})
