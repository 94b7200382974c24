/** A file of the volumes directory under 100,000 random operations, buffered and mapped, and as many past the page cache. */
import fs from 'node:fs'
import { join } from 'node:path'
import { TestCluster } from '../support/cluster.js'
import { exercise } from '../support/file-exerciser.js'
import { run } from '../support/process.js'

const OPERATIONS = 100_000

/** Throws at the first difference from what a plain file would have. */
export async function exerciseFiles(seed: number, log: (text: string) => void): Promise<void> {
  const directory = fs.mkdtempSync('/var/tmp/sheep-files-')
  const place = join(directory, 'volumes')
  const optionsOf = (index: number) => (index === 0 ? ['--volumes', place] : [])
  const cluster = await TestCluster.start({ nodes: 3, copies: 3, directory, optionsOf })
  try {
    for (const direct of [false, true]) {
      const begun = performance.now()
      const path = join(place, direct ? 'direct' : 'buffered')
      exercise(path, { seed, operations: OPERATIONS, sizeMax: 12 << 20, lengthMax: 128 << 10, direct })
      const seconds = (performance.now() - begun) / 1000
      log(
        `files: ${OPERATIONS} operations ${direct ? 'with O_DIRECT' : 'buffered'} in ${seconds.toFixed(0)} s: no difference`,
      )
    }
  } finally {
    await cluster.killNode(0, 'SIGTERM')
    await run('umount', ['-l', place])
    await cluster.stop()
    fs.rmSync(directory, { recursive: true, force: true })
  }
}
