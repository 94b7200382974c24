/**
 * The cluster's key: 32 random bytes that every daemon of a cluster has, and nobody else but root and the group sheepdog
 * (docs/cluster-key.md). Who knows it may connect as a peer, or as dog from another host.
 */
import { randomBytes } from 'node:crypto'
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs'
import { SheepError } from '../errors.js'

export const CLUSTER_KEY_PATH = '/etc/sheepdog/cluster.key'
export const CLUSTER_KEY_BYTES = 32
/** A key file is a line and some comments */
const FILE_BYTES_MAX = 4096

/** Text of a new key file; to be written with mode 0640, owner root, group sheepdog. */
export function newClusterKey(): string {
  return `# Sheepdog's cluster key: the same on all hosts of a cluster, and known to nobody else.\n${randomBytes(CLUSTER_KEY_BYTES).toString('hex')}\n`
}

/** @param path for messages. SheepError invalid: never shows what the file holds */
export function parseClusterKey(text: string, path: string): Buffer {
  const lines = text.split('\n').map((line) => line.trim())
  const words = lines.filter((line) => line !== '' && !line.startsWith('#'))
  if (words.length !== 1 || !/^[0-9a-f]{64}$/i.test(words[0])) {
    throw new SheepError(
      'invalid',
      `${path} holds no cluster key`,
      'a key is one line of 64 hexadecimal digits; copy the file from another host of the cluster',
    )
  }
  return Buffer.from(words[0], 'hex')
}

/** SheepError not-found, system, invalid: not a key, or readable by everybody. */
export function readClusterKey(path: string): Buffer {
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') throw new SheepError('not-found', `there is no cluster key at ${path}`, HOW_TO_GET)
    throw new SheepError('system', `cannot read the cluster key: ${message}`, 'it is for root and the group sheepdog')
  }
  try {
    const { mode, size } = fstatSync(fd)
    if ((mode & 0o007) !== 0) {
      throw new SheepError('invalid', `${path} can be read by everybody`, `chmod 0640 ${path}, and make a new key`)
    }
    if (size > FILE_BYTES_MAX) throw new SheepError('invalid', `${path} holds no cluster key: it has ${size} bytes`)
    return parseClusterKey(readFileSync(fd, 'utf8'), path)
  } finally {
    closeSync(fd)
  }
}

const HOW_TO_GET = 'copy it from another host of the cluster; for a new cluster dog cluster init makes one'
