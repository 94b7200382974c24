/** The daemon as it is in production, from lib/node down, on simulated parts. */

import { SheepNode } from '../../lib/node/node.js'
import { controlServices, type ProcessFacts, serviceCalls } from '../../lib/node/services.js'
import { Session } from '../../lib/node/sessions.js'
import { findDisks } from '../../lib/store/node-disks.js'
import { type MakeSheep, PORT } from './host.js'
import { ProcessDied } from './process.js'

/** All nodes that store offer the same space: placement is then the same in every run of a world. */
const SPACE = 2 ** 30

/** 16 hex digits, made of the host's name: a store keeps its node's id. */
function nodeId(name: string): string {
  return Buffer.from(name).toString('hex').padEnd(16, '0').slice(0, 16)
}

export const sheep: MakeSheep = async (parts) => {
  const { name, zone, gatewayOnly, host, clock, random, disks, attach, network, engine, lease, log, fatal } = parts
  const found = findDisks(disks, [], { clock, random, log, newId: nodeId(name) })
  const { id } = found
  const facts: ProcessFacts = {
    version: 'simulated',
    uptime: () => clock.now() / 1000,
    cpu: () => 0,
    memory: () => 0,
    recentLog: () => [],
    requestStop: () => {},
    places: { nbd: '', volumes: '' },
    clients: () => ({ active: 0, total: 0, read: 0, write: 0, flush: 0, remove: 0, readBytes: 0, writeBytes: 0 }),
  }
  const node = await SheepNode.open({
    self: { id, name, host, port: PORT, zone, space: gatewayOnly ? 0 : SPACE, vnodes: 0 },
    clock,
    random,
    disks: found,
    attach,
    network,
    engine,
    log,
    listen: { host, port: PORT },
    accept: (running, link) => new Session(running, controlServices(running, facts), link, 'a simulated link'),
    calls: (running) => serviceCalls(running, facts),
    fatal,
    stopRequested: () => {},
    // Every read is compared: rot may come at any time.
    trustMs: 0,
    lease,
  })
  return {
    volumes: node.gateway,
    vdis: controlServices(node, facts).vdis,
    cluster: node.cluster,
    plug: (path) => node.disks.plug(path),
    unplug: (path) => node.disks.unplug(path, false),
    lostEpoch: () => node.store.state.lostEpoch,
    ownDisks: () => node.store.state.disks.map(({ path }) => path),
    workingDisks: () => {
      try {
        const working = node.store.report().filter(({ state }) => state === 'working' || state === 'full')
        return working.map(({ path }) => path)
      } catch (error) {
        // Being asked showed that one fails, and writing that down was its last system call.
        if (error instanceof ProcessDied) return []
        throw error
      }
    },
    start: () => node.start(),
    stop: () => node.stop(),
    resting: (oid) => node.store.get(oid)?.intent === false,
    check: () => node.checker.check(node.cluster.registry.live(), false, { report: () => {}, cancelled: false }),
    lost: () => node.lost.find('', { report: () => {}, cancelled: false }),
    acceptLost: (objects, zeros) => node.lost.accept(objects, zeros),
    startScrub: () => node.scrub.start(),
    scrubbing: () => node.scrub.progress().state !== 'idle',
  }
}
