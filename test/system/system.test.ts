/** The short scenarios on real hosts: containers with kernel network namespaces, systemd and corosync. */
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
  let cluster: SystemCluster
  test.before(async (t) => {
    t.timeout(240_000)
    cluster = await SystemCluster.make(3, (text) => t.log(text))
  })
  test.after.always(() => cluster?.close())
  for (const { name, title, short, hosts = 3, run } of scenarios) {
    if (!short || hosts !== 3) continue
    test.serial(`three hosts: ${title}`, async (t) => {
      t.timeout(240_000)
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
