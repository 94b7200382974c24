/** The short scenarios on real hosts, on three and then on four: containers with kernel network namespaces, systemd and corosync. */
import anyTest, { type TestFn } from 'ava'
import { SystemCluster } from './cluster.js'
import { obstacle } from './ground.js'
import { scenarios } from './scenarios.js'

const test = anyTest as TestFn<{ cluster: SystemCluster }>
const why = obstacle()

if (why !== '') {
  test(`system tests CANNOT RUN HERE: ${why}`, (t) => {
    t.log(`NOT TESTED: corosync, several hosts. ${why}`)
    t.pass()
  })
} else {
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
