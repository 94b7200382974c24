/**
 * Runs on a host of the bed: changes of the cluster's state as fast as some clients of this host's daemon get them. `operations.js NAME`
 * prints how many they were and how long it took.
 */
import { ControlClient } from '../../lib/control/client.js'

/** A setting, a lock, its release: each is one place in the order that all daemons agree on. */
const changesEach = 3

const lanes = 16
const rounds = 40

const [name] = process.argv.slice(2)

/** How long its changes took, ms */
async function lane(number: number): Promise<number> {
  const client = await ControlClient.connect({ socket: '/var/lib/sheepdog/sock' })
  const volume = `${name}-${number}`
  await client.call('vdi.create', {
    ...{ name: volume, size: 64 << 20, copies: 0, blockSizeShift: 0, preallocate: false, onNoQuorum: null },
  })
  const start = performance.now()
  for (let round = 0; round < rounds; round++) {
    await client.call('vdi.set', { name: volume, onNoQuorum: 1_000 * (round + 1) })
    const open = await client.openVolume(volume, '', false)
    await open.close()
  }
  const ms = performance.now() - start
  await client.call('vdi.delete', { name: volume, snapshot: '' })
  client.close()
  return ms
}

const times = await Promise.all(Array.from({ length: lanes }, (_, number) => lane(number)))
console.log(JSON.stringify({ changes: lanes * rounds * changesEach, ms: Math.round(Math.max(...times)) }))
