/**
 * Looks at stores from outside, past all of our code: are the copies of each object the same bytes? The layout is the
 * one that lib/store/types.ts promises: `obj/XX/OID`, a 4096-byte header, then the object's bytes, where what a file
 * lacks at its end is zeros.
 */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const headerBytes = 4096

/** Object id -> digest of its content, for each object of a store. */
function objectsOf(store: string): Map<string, string> {
  const objects = new Map<string, string>()
  for (const folder of readdirSync(join(store, 'obj'))) {
    for (const name of readdirSync(join(store, 'obj', folder))) {
      const bytes = readFileSync(join(store, 'obj', folder, name))
      let end = bytes.length
      while (end > headerBytes && bytes[end - 1] === 0) end--
      objects.set(name, createHash('sha1').update(bytes.subarray(headerBytes, end)).digest('hex'))
    }
  }
  return objects
}

export interface ReplicaSurvey {
  /** Number of different objects */
  objects: number
  /** One line each: what is wrong */
  problems: string[]
}

/** Every object must be in exactly `copies` of the stores, with the same content. The daemons must be idle or ended. */
export function surveyReplicas(stores: readonly string[], copies: number): ReplicaSurvey {
  const all = stores.map(objectsOf)
  const names = new Set(all.flatMap((objects) => [...objects.keys()]))
  const problems: string[] = []
  for (const name of names) {
    const digests = all.flatMap((objects) => objects.get(name) ?? [])
    if (digests.length !== copies) problems.push(`${name}: ${digests.length} copies instead of ${copies}`)
    if (new Set(digests).size > 1) problems.push(`${name}: copies differ`)
  }
  return { objects: names.size, problems }
}
