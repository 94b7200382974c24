/**
 * Looks at stores from outside, past all of our code: are the copies of each object the same bytes? The layout is the
 * one that lib/store/types.ts promises: `obj/XX/OID`, a 4096-byte header, then the object's bytes, where what a file
 * lacks at its end is zeros.
 */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { sleep } from './process.js'

const headerBytes = 4096

/** Object id -> digest of its content, for each object of a store. */
function objectsOf(store: string): Map<string, string> {
  const objects = new Map<string, string>()
  for (const folder of readdirSync(join(store, 'obj'))) {
    for (const name of readdirSync(join(store, 'obj', folder))) {
      const bytes = contentOf(join(store, 'obj', folder, name))
      if (bytes === null) continue
      let end = bytes.length
      while (end > headerBytes && bytes[end - 1] === 0) end--
      objects.set(name, createHash('sha1').update(bytes.subarray(headerBytes, end)).digest('hex'))
    }
  }
  return objects
}

/** `null` when the file has been dropped since it was listed. */
function contentOf(path: string): Buffer | null {
  try {
    return readFileSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

export interface ReplicaSurvey {
  /** Number of different objects */
  objects: number
  /** One line each: what is wrong */
  problems: string[]
}

/** So long copies that nobody needs any more may still be there, ms: they are dropped after recovery, as fast as the disk does it */
const dropLimit = 30_000

/**
 * Every object must be in exactly `copies` of the stores, with the same content. The daemons must be healthy or ended. Waits for
 * no more than the drop of surplus copies.
 */
export async function surveyReplicas(stores: readonly string[], copies: number): Promise<ReplicaSurvey> {
  const end = performance.now() + dropLimit
  for (;;) {
    const { objects, surplus, wrong } = survey(stores, copies)
    if (surplus.length === 0 || wrong.length > 0 || performance.now() > end)
      return { objects, problems: [...wrong, ...surplus] }
    await sleep(100)
  }
}

function survey(stores: readonly string[], copies: number): { objects: number; surplus: string[]; wrong: string[] } {
  const all = stores.map(objectsOf)
  const names = new Set(all.flatMap((objects) => [...objects.keys()]))
  const surplus: string[] = []
  const wrong: string[] = []
  for (const name of names) {
    const digests = all.flatMap((objects) => objects.get(name) ?? [])
    if (digests.length > copies) surplus.push(`${name}: ${digests.length} copies instead of ${copies}`)
    if (digests.length < copies) wrong.push(`${name}: ${digests.length} copies instead of ${copies}`)
    if (digests.length <= copies && new Set(digests).size > 1) wrong.push(`${name}: copies differ`)
  }
  return { objects: names.size, surplus, wrong }
}
