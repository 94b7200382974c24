/**
 * The local engine: daemons on one host that share a directory. No server, no locks, no time-outs.
 *
 *     DIR/log.NNNNNNNN   the order of everything: records appended with O_APPEND (local-log.ts)
 *     DIR/MEMBER.sock    each member listens here for its life (local-peers.ts)
 *
 * Order. The kernel serializes appends, so the file's order is the total order of joins, leaves and messages. A member that is
 * stopped or killed at any instruction holds nothing that others wait for: there is no lock, and a torn record is skipped.
 *
 * Views. A member's JOIN record begins its membership, a LEAVE record ends it. For a member that died any survivor appends
 * LEAVE, after the kernel has proved that its process is gone (nothing of it can follow); only the first counts.
 *
 * Waking. Who appends pokes the others over their sockets. One that is killed between the two is noticed dead, and one that is
 * stopped there pokes when it goes on; for the latter everybody also looks every POLL_MS.
 *
 * Rotation. When a log is long a member appends SEAL. What stands behind it does not count: its writers, who read everything,
 * find their records missing and append them to the next generation. That begins with the members as of SEAL, which all know
 * alike, so whoever comes first makes the file: written aside, then link(2), which fails when another was quicker.
 *
 * Start. The newest log of this boot is read to its end; members who do not answer are dead and get their LEAVE; then this one
 * JOINs. A log of an earlier boot, or without a whole head, belongs to nobody who lives: a new generation replaces it. So
 * nothing that a crash leaves behind hinders a start.
 */
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import type { Log } from '../host/interfaces.js'
import type { Engine, EngineEvents, MemberId } from './engine.js'
import {
  encodeHead,
  encodeRecord,
  KIND_JOIN,
  KIND_LEAVE,
  KIND_MESSAGE,
  KIND_SEAL,
  type LogHead,
  LogReader,
  type LogRecord,
  PAYLOAD_MAX,
  readHead,
} from './local-log.js'
import { LocalPeers } from './local-peers.js'

const LOG_BYTES_MAX = 4 << 20
/** Kept behind the newest, for a member that was stopped meanwhile. One that is further behind fails. */
const GENERATIONS_KEPT = 8
const POLL_MS = 500
/** Records delivered in one go before other work of the daemon gets its turn. */
const RECORDS_PER_TURN = 256
/** A full disk is waited for this long. */
const WRITE_RETRY_MS = 100
const WRITE_TRIES_MAX = 300
const LEAVE_WAIT_MS = 5_000
const JOIN_WAIT_MS = 30_000
/** A file that is younger may be a starting daemon's. */
const STARTING_MS = 60_000

export interface LocalEngineOptions {
  /** Shared by the daemons of one cluster on this host; made when missing */
  directory: string
  log: Log
  /** Of a log before the next one begins; for tests */
  logBytesMax?: number
}

interface OwnRecord {
  kind: number
  number: number
  payload: Buffer
}

export class LocalEngine implements Engine {
  readonly name = 'local'
  readonly hasQuorum = false
  readonly self: MemberId = randomBytes(8).toString('hex')
  private events: EngineEvents | null = null
  private peers: LocalPeers | null = null
  private fd = -1
  private head: LogHead = { boot: '', generation: 0, nonce: '', members: [] }
  private nonce = Buffer.alloc(8)
  private reader: LogReader | null = null
  private members: MemberId[] = []
  /** Number of the last record read of each sender */
  private readonly numbers = new Map<MemberId, number>()
  private readonly dead = new Set<MemberId>()
  /** Own records not yet read back, oldest first */
  private readonly unread: OwnRecord[] = []
  private lastNumber = 0
  private writtenThrough = 0
  private failedWrites = 0
  private phase: 'new' | 'joining' | 'member' | 'leaving' | 'gone' = 'new'
  private joined: { resolve(): void; reject(error: Error): void } | null = null
  private left: (() => void) | null = null
  private flushing = false
  private draining = false
  private poll: NodeJS.Timeout | null = null
  private retry: NodeJS.Timeout | null = null

  constructor(readonly options: LocalEngineOptions) {}

  private get directory(): string {
    return this.options.directory
  }

  /** SheepError system: the directory cannot be used; timeout. */
  async join(events: EngineEvents): Promise<void> {
    assert(this.phase === 'new', 'an engine joins once')
    this.phase = 'joining'
    this.events = events
    try {
      fs.mkdirSync(this.directory, { recursive: true, mode: 0o700 })
      this.peers = new LocalPeers(
        this.directory,
        () => this.drainSoon(),
        (member) => this.died(member),
      )
      await this.peers.listen(this.self)
      this.openNewest()
      this.drain()
      await this.clear()
    } catch (error) {
      this.close()
      throw this.directoryError(error)
    }
    this.append(KIND_JOIN, Buffer.alloc(0))
    this.poll = setInterval(() => this.check(), POLL_MS)
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(
          new SheepError('timeout', `the log in ${this.directory} takes no records`, 'see whether its disk is full'),
        )
        this.close()
      }, JOIN_WAIT_MS)
      this.joined = {
        resolve: () => {
          clearTimeout(timer)
          resolve()
        },
        reject: (error) => {
          clearTimeout(timer)
          reject(error)
        },
      }
    })
  }

  async leave(): Promise<void> {
    if (this.phase !== 'member') {
      this.close()
      this.joined?.reject(new SheepError('shutting-down', 'this daemon is stopping'))
      return
    }
    this.phase = 'leaving'
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, LEAVE_WAIT_MS)
      this.left = () => {
        clearTimeout(timer)
        resolve()
      }
      this.append(KIND_LEAVE, Buffer.from(this.self))
    })
    this.close()
  }

  broadcast(payload: Buffer): void {
    assert(this.phase !== 'new' && this.phase !== 'joining', 'only a member broadcasts')
    assert(payload.length <= PAYLOAD_MAX, `a message has at most ${PAYLOAD_MAX} bytes: ${payload.length}`)
    if (this.phase === 'member') this.append(KIND_MESSAGE, payload)
  }

  private directoryError(error: unknown): unknown {
    if (error instanceof SheepError) return error
    const { code, message } = error as NodeJS.ErrnoException
    if (code === undefined) return error
    const hint =
      code === 'EACCES' || code === 'EPERM'
        ? 'run all daemons of a local cluster as one user, or choose another directory: sheep -c local:DIRECTORY'
        : 'choose another directory: sheep -c local:DIRECTORY'
    return new SheepError('system', `the local engine cannot use ${this.directory}: ${message}`, hint)
  }

  // writing

  private append(kind: number, payload: Buffer): void {
    this.unread.push({ kind, number: ++this.lastNumber, payload: Buffer.from(payload) })
    if (this.flushing) return
    this.flushing = true
    queueMicrotask(() => {
      this.flushing = false
      this.flush()
    })
  }

  /** All that is not yet in this generation, in one append. */
  private flush(): void {
    if (this.phase === 'gone' || this.retry !== null) return
    const fresh = this.unread.filter((record) => record.number > this.writtenThrough)
    if (fresh.length === 0) return
    const { nonce, self } = this
    const bytes = Buffer.concat(fresh.map((record) => encodeRecord(nonce, { ...record, sender: self })))
    if (!this.write(bytes)) return
    this.writtenThrough = fresh[fresh.length - 1].number
    this.peers!.poke()
    this.drainSoon()
  }

  /** False: not all of it got there; a retry is under way. What did get there is read once, by its number. */
  private write(bytes: Buffer): boolean {
    let problem = 'short write'
    try {
      if (fs.writeSync(this.fd, bytes) === bytes.length) {
        this.failedWrites = 0
        return true
      }
    } catch (error) {
      problem = (error as Error).message
    }
    if (++this.failedWrites > WRITE_TRIES_MAX) {
      this.fail(`the log in ${this.directory} cannot be written: ${problem}`)
      return false
    }
    if (this.failedWrites === 1) this.options.log('warning', `the local engine's log: ${problem}; trying again`)
    this.retry = setTimeout(() => {
      this.retry = null
      this.flush()
    }, WRITE_RETRY_MS)
    return false
  }

  // reading

  private drainSoon(): void {
    if (this.draining || this.phase === 'gone') return
    this.draining = true
    setImmediate(() => {
      this.draining = false
      this.drain()
    })
  }

  private drain(): void {
    for (let count = 0; this.phase !== 'gone'; count++) {
      if (count === RECORDS_PER_TURN && this.phase !== 'joining') {
        this.drainSoon()
        return
      }
      const record = this.reader!.next()
      if (record === null) return
      this.take(record)
    }
  }

  private take({ kind, sender, number, payload }: LogRecord): void {
    if (kind === KIND_SEAL) {
      if (payload.toString() === String(this.head.generation)) this.nextGeneration()
      return
    }
    // A record that was written again, because the first attempt seemed to fail.
    if (number <= (this.numbers.get(sender) ?? 0)) return
    this.numbers.set(sender, number)
    if (sender === this.self) {
      while (this.unread.length > 0 && this.unread[0].number <= number) this.unread.shift()
    }
    if (kind === KIND_JOIN) this.hasJoined(sender)
    else if (kind === KIND_LEAVE) this.hasLeft(payload.toString('latin1'), sender)
    else if (kind === KIND_MESSAGE && this.phase === 'member' && this.members.includes(sender)) {
      this.events!.message(sender, payload)
    }
    if (sender === this.self && kind === KIND_MESSAGE && this.phase === 'member') this.sealWhenLong()
  }

  private hasJoined(member: MemberId): void {
    if (this.members.includes(member)) return
    this.members = [...this.members, member]
    if (member === this.self) {
      this.phase = 'member'
      for (const other of this.members) if (other !== member) this.peers!.watch(other)
      this.joined?.resolve()
    } else if (this.phase === 'member') {
      this.peers!.watch(member)
    }
    if (this.phase === 'member') this.events!.view({ members: this.members, joined: [member], left: [] })
  }

  /** `by`: itself, or who found it dead */
  private hasLeft(member: MemberId, by: MemberId): void {
    if (!this.members.includes(member)) return
    this.members = this.members.filter((one) => one !== member)
    this.numbers.delete(member)
    this.dead.delete(member)
    this.peers!.unwatch(member)
    this.removeSocket(member)
    if (member !== this.self) {
      const reasons = new Map([[member, by === member ? ('left' as const) : ('died' as const)]])
      if (this.phase === 'member') this.events!.view({ members: this.members, joined: [], left: [member], reasons })
    } else if (this.phase === 'leaving') {
      this.left?.()
    } else {
      this.fail('another daemon found this one dead')
    }
  }

  private died(member: MemberId): void {
    if (this.phase === 'gone' || !this.members.includes(member)) return
    this.dead.add(member)
    this.append(KIND_LEAVE, Buffer.from(member))
  }

  /** Catches what no poke told, and a log that was taken away. */
  private check(): void {
    this.drainSoon()
    if (fs.fstatSync(this.fd).nlink > 0 || fs.existsSync(this.logPath(this.head.generation + 1))) return
    this.fail(`the log in ${this.directory} was removed, or this daemon was stopped for too long`)
  }

  // generations

  private logPath(generation: number): string {
    return path.join(this.directory, `log.${String(generation).padStart(8, '0')}`)
  }

  private generations(): number[] {
    const names = fs.readdirSync(this.directory).filter((name) => /^log\.\d{8,}$/.test(name))
    return names.map((name) => Number(name.slice(4))).sort((a, b) => b - a)
  }

  private openNewest(): void {
    const boot = fs.readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()
    for (let tries = 0; tries < 100; tries++) {
      const newest = this.generations()[0] ?? 0
      if (newest > 0 && this.openLog(newest) && this.head.boot === boot) {
        this.members = this.head.members.map(([member]) => member)
        for (const [member, number] of this.head.members) this.numbers.set(member, number)
        return
      }
      this.makeLog({ boot, generation: newest + 1, nonce: randomBytes(8).toString('hex'), members: [] })
      this.dropBefore(newest + 1)
    }
    throw new SheepError('system', `the logs in ${this.directory} change faster than they can be opened`)
  }

  /** False when it is gone or has no whole head. */
  private openLog(generation: number): boolean {
    let fd: number
    try {
      fd = fs.openSync(this.logPath(generation), fs.constants.O_RDWR | fs.constants.O_APPEND)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
      throw error
    }
    const found = readHead(fd)
    if (found === null) {
      fs.closeSync(fd)
      return false
    }
    if (this.fd >= 0) fs.closeSync(this.fd)
    this.fd = fd
    this.head = found.head
    this.nonce = Buffer.from(found.head.nonce, 'hex')
    this.reader = new LogReader(fd, this.nonce, found.length)
    return true
  }

  /** Unless another has: the first stands. */
  private makeLog(head: LogHead): void {
    const fresh = path.join(this.directory, `log.${this.self}.new`)
    fs.writeFileSync(fresh, encodeHead(head), { mode: 0o600 })
    try {
      fs.linkSync(fresh, this.logPath(head.generation))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    } finally {
      fs.unlinkSync(fresh)
    }
  }

  private dropBefore(generation: number): void {
    for (const old of this.generations()) {
      if (old < generation) fs.rmSync(this.logPath(old), { force: true })
    }
  }

  private sealWhenLong(): void {
    const { logBytesMax = LOG_BYTES_MAX } = this.options
    if (this.unread.length > 0 || fs.fstatSync(this.fd).size < logBytesMax) return
    const payload = Buffer.from(String(this.head.generation))
    // When it fails, the next message tries again.
    this.write(encodeRecord(this.nonce, { kind: KIND_SEAL, sender: this.self, number: 0, payload }))
    this.drainSoon()
  }

  private nextGeneration(): void {
    const { boot, generation } = this.head
    const members = this.members.map((member): [string, number] => [member, this.numbers.get(member) ?? 0])
    try {
      if (!fs.existsSync(this.logPath(generation + 1))) {
        this.makeLog({ boot, generation: generation + 1, nonce: randomBytes(8).toString('hex'), members })
      }
      if (!this.openLog(generation + 1)) throw new Error('this daemon was stopped for too long: the next log is gone')
    } catch (error) {
      this.fail(`the local engine cannot begin its next log: ${(error as Error).message}`)
      return
    }
    const same = JSON.stringify(this.head.members) === JSON.stringify(members)
    assert(same, 'all members agree on who was there when a log ended')
    this.dropBefore(generation + 1 - GENERATIONS_KEPT)
    this.writtenThrough = this.numbers.get(this.self) ?? 0
    this.flush()
    for (const member of this.dead) this.append(KIND_LEAVE, Buffer.from(member))
  }

  /** Before joining: members that are dead get their LEAVE, and what is left of them goes. */
  private async clear(): Promise<void> {
    const peers = this.peers!
    for (const member of [...this.members]) {
      if (!(await peers.probe(member))) this.died(member)
    }
    for (const name of fs.readdirSync(this.directory)) {
      const [, member, kind] = /^(?:log\.)?([0-9a-f]{16})\.(sock|new)$/.exec(name) ?? []
      if (member === undefined || member === this.self || this.members.includes(member)) continue
      const file = path.join(this.directory, name)
      // A daemon that is just starting has its socket under this name for a moment.
      if (kind === 'new' && Date.now() - (fs.statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0) < STARTING_MS)
        continue
      if (!(await peers.probe(member))) fs.rmSync(file, { force: true })
    }
  }

  // the end

  private fail(reason: string): void {
    if (this.phase === 'gone') return
    const { phase, joined, left } = this
    this.close()
    if (phase === 'joining') joined?.reject(new SheepError('system', reason))
    else if (phase === 'leaving') left?.()
    else this.events!.failed(reason)
  }

  private close(): void {
    if (this.phase === 'gone') return
    this.phase = 'gone'
    if (this.poll !== null) clearInterval(this.poll)
    if (this.retry !== null) clearTimeout(this.retry)
    this.peers?.close()
    this.removeSocket(this.self)
    if (this.fd >= 0) fs.closeSync(this.fd)
    this.fd = -1
  }

  /** When it cannot be removed the next start tries again. */
  private removeSocket(member: MemberId): void {
    try {
      fs.rmSync(path.join(this.directory, `${member}.sock`), { force: true })
    } catch (error) {
      this.options.log('debug', `the local engine leaves a file behind: ${(error as Error).message}`)
    }
  }
}
