/** What hurt the users of such systems, on simulated hosts. README.md says which test is whose. */
import test from 'ava'
import { ask, play } from './play.js'

const limit = 3 * 60_000
/** So long after a check has begun it compares objects, simulated ms */
const UNDER_WAY_MS = 20

test('while one daemon stands still for half a minute, volumes open and requests go on', async (t) => {
  t.timeout(limit)
  await play(async (on) => {
    await on.sleep(3_000)
    const host = await on.idleHost()
    host.pause()
    // It is noticed and left out; then nobody waits for it any more.
    await on.sleep(12_000)
    const before = on.requests
    await on.sleep(10_000)
    if (on.requests - before < 20) throw new Error(`only ${on.requests - before} requests in 10 s`)
    await on.sleep(8_000)
    host.resume()
    await on.within(30_000, 'the daemon is back', () => host.serving)
  })
  t.pass()
})

test('a host that lost its power in the middle of writes brings no old bytes back', async (t) => {
  t.timeout(limit)
  await play(async (on) => {
    for (let round = 0; round < 4; round++) {
      await on.sleep(2_000)
      on.world.planner.power([on.hosts[round % on.hosts.length]])
      await on.within(60_000, 'everybody is back and has recovered', () => on.world.planner.healthy())
    }
  })
  t.pass()
})

test('after a power cut of everything the cluster runs again by itself, in whatever order the hosts come', async (t) => {
  t.timeout(limit)
  await play(async (on) => {
    for (let round = 0; round < 3; round++) {
      await on.sleep(3_000)
      on.world.planner.power(on.hosts)
      await on.within(60_000, 'all hosts are up', () => on.hosts.every((host) => host.up))
      await on.within(30_000, 'all serve', () => on.hosts.every((host) => host.serving))
      await on.within(60_000, 'all have recovered', () => on.world.planner.healthy())
    }
  })
  t.pass()
})

test('a partition that heals needs nobody: the isolated daemon, never restarted, serves again', async (t) => {
  t.timeout(limit)
  await play(async (on) => {
    for (let round = 0; round < 3; round++) {
      const host = on.hosts[round]
      const { incarnation } = host
      await on.sleep(2_000)
      on.world.planner.partition([host], 15_000)
      await on.within(10_000, 'the isolated daemon halts', () => host.sheep?.cluster.status === 'halted')
      if (!on.hosts.every((other) => other === host || other.serving)) throw new Error('the majority does not serve')
      await on.sleep(15_000)
      await on.within(60_000, 'the isolated daemon serves again', () => host.serving)
      if (host.incarnation !== incarnation) throw new Error('it was restarted')
      await on.within(60_000, 'all have recovered', () => on.world.planner.healthy())
    }
  })
  t.pass()
})

test('when quorum is lost, requests wait for a minute and then go on; none fails', async (t) => {
  t.timeout(limit)
  await play(async (on) => {
    await on.sleep(3_000)
    // Two and two: nobody has a majority.
    on.world.planner.partition(on.hosts.slice(0, 2), 60_000)
    await on.within(10_000, 'both halves halt', () => on.hosts.every((host) => host.sheep?.cluster.status === 'halted'))
    const before = on.requests
    await on.sleep(40_000)
    for (const { name, sheep } of on.hosts) {
      const { status = '', statusReason = '' } = sheep?.cluster ?? {}
      if (status !== 'halted' || statusReason === '') throw new Error(`${name} is ${status} and does not say why`)
    }
    await on.within(40_000, 'all serve again', () => on.hosts.every((host) => host.serving))
    await on.within(30_000, 'requests go on', () => on.requests > before + 20)
  })
  t.pass()
})

test('a check of all volumes outlasts a broken link, a host that is left out meanwhile, and deletions', async (t) => {
  t.timeout(limit)
  await play(
    async (on) => {
      const { network, planner } = on.world
      await on.sleep(8_000)
      const [asked, parted] = on.hosts
      const ways = [
        [asked.name, parted.name],
        [parted.name, asked.name],
      ]
      // Under way: past the indexes, which are read as a client's requests are.
      const checking = ask(asked, 'check', (sheep) => sheep.check())
      await on.sleep(UNDER_WAY_MS)
      for (const [from, to] of ways) network.cut(from, to)
      // Long enough for the link to be given up as silent.
      await on.sleep(6_000)
      for (const [from, to] of ways) network.heal(from, to)
      const sound = await checking
      await on.within(60_000, 'all have recovered', () => planner.healthy())
      const without = ask(asked, 'check', (sheep) => sheep.check())
      await on.sleep(UNDER_WAY_MS)
      parted.pause()
      const { objects, problems } = await without
      parted.resume()
      const found = [...sound.problems, ...problems]
      if (objects === 0 || sound.objects === 0) throw new Error('nothing was checked')
      if (found.length > 0) throw new Error(JSON.stringify(found))
      await on.within(60_000, 'everybody is back and has recovered', () => planner.healthy())
    },
    {},
    [1, 2, 3],
  )
  t.pass()
})
