/** The short scenarios on real hosts, on three and then on four: containers with kernel network namespaces, systemd and corosync. */
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import anyTest, { type TestFn } from 'ava'
import { ended, until } from '../support/process.js'
import { SystemCluster } from './cluster.js'
import { Ground, obstacle, traces } from './ground.js'
import { scenarios } from './scenarios.js'

/** The machine name of each host is on its command line. */
function hasProcesses(bed: string): boolean {
  return readdirSync('/proc').some((pid) => {
    if (!/^\d+$/.test(pid)) return false
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(`--machine=${bed}`)
    } catch {
      return false // it has ended
    }
  })
}

const test = anyTest as TestFn<{ cluster: SystemCluster }>
const why = obstacle()

if (why !== '') {
  test(`system tests CANNOT RUN HERE: ${why}`, (t) => {
    t.log(`NOT TESTED: corosync, several hosts. ${why}`)
    t.pass()
  })
} else {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGKILL'] as const) {
    test.serial(`a run that ${signal} ends while its hosts boot leaves nothing, or to the next run`, async (t) => {
      const run = spawn(process.execPath, [join(import.meta.dirname, 'main.js'), 'form'], { stdio: 'ignore' })
      t.teardown(() => run.kill('SIGKILL'))
      const bed = `sheepbed-${run.pid}-`
      const booting = () => traces(bed).filter((path) => /\/host\d\/root/.test(path)).length === 3 && hasProcesses(bed)
      await until('three hosts to boot', 180_000, booting)
      run.kill(signal)
      await ended(run)
      if (signal === 'SIGKILL') {
        t.true(traces(bed).length > 3)
        t.true(hasProcesses(bed))
        Ground.take().giveBack()
      }
      t.deepEqual(traces(bed), [])
      t.false(hasProcesses(bed))
    })
  }

  let cluster: SystemCluster | null = null
  let say: (text: string) => void
  test.after.always(() => cluster?.close())
  const short = scenarios.filter((scenario) => scenario.short)
  for (const scenario of short.sort((a, b) => (a.hosts ?? 3) - (b.hosts ?? 3))) {
    const { name, title, hosts = 3, run } = scenario
    test.serial(`${hosts} hosts: ${title}`, async (t) => {
      t.timeout(300_000)
      say = (text) => t.log(text)
      if (cluster === null || !cluster.suits(scenario)) {
        cluster?.close()
        cluster = null
        cluster = await SystemCluster.of(scenario, (text) => say(text))
      }
      try {
        await run(cluster)
        t.pass()
      } catch (error) {
        t.log(await cluster.keepJournals(name))
        throw error
      }
    })
  }
}
