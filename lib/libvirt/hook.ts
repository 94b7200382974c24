/**
 * What libvirt-hooks/qemu finds out and decides (libvirt.org/hooks.html): whether a machine may start here, by who has its volumes
 * open. It never asks libvirt anything: libvirt waits for it.
 */
import { SheepError } from '../errors.js'
import { DomainXml, type Places, POOL_PATH, type SheepdogDisk } from './domain-xml.js'

/** Operations that are answered. All others pass, `reconnect` above all: its failure kills a running guest. */
const OPERATIONS = ['prepare', 'start', 'attach', 'migrate', 'restore', 'release'] as const
export type HookOperation = (typeof OPERATIONS)[number]

/** Its gateway closes a volume when it sees that its client has ended: then it is free. */
const CLOSING_MS = 2_500
const CLOSING_POLL_MS = 250
/** For the target's QEMU to open its disks; from then on the migration may take as long as it likes */
const TARGET_SECONDS = 600
const DEFAULT_DIRECTORY = '/var/lib/sheepdog/'

export interface HookLock {
  volume: string
  /** write, read, target */
  mode: string
  node: string
  /** For people */
  nodeName: string
  holder: string
  /** Announced by its writer's side: to that node, '' any */
  migration: { to: string } | null
}

/** The cluster, as this host's daemon knows it. */
export interface HookCluster {
  /** This host's node */
  self(): Promise<string>
  places(): Promise<Places>
  /** Of all hosts that answer, this one's too */
  everywhere(): Promise<Places[]>
  locks(): Promise<HookLock[]>
  announce(volume: string, seconds: number): Promise<void>
  cancel(volume: string): Promise<void>
  sleep(ms: number): Promise<void>
}

export function isHookOperation(text: string): text is HookOperation {
  return (OPERATIONS as readonly string[]).includes(text)
}

/** What libvirt is to use in place of the XML; '' as it is. SheepError: the machine is not to start, and why. */
export async function runHook(operation: HookOperation, xml: string, cluster: HookCluster): Promise<string> {
  const domain = DomainXml.parse(xml)
  let places: Places
  try {
    places = await cluster.places()
  } catch (error) {
    if (operation === 'release' || !surelyOurs(domain)) return ''
    throw error
  }
  switch (operation) {
    case 'prepare':
    case 'start':
    case 'attach':
      await refuseIfOpen(domain, domain.sheepdogDisks(places), cluster, operation === 'prepare')
      return ''
    case 'restore':
      return (await moved(domain, places, cluster)) ? String(domain) : ''
    case 'migrate': {
      const changed = await moved(domain, places, cluster)
      await letIn(domain, domain.sheepdogDisks(places), cluster)
      return changed ? String(domain) : ''
    }
    case 'release':
      await endAnnounced(domain.sheepdogDisks(places), cluster)
      return ''
  }
}

/** Without a daemon to ask: what lies where a sheep is by default. */
function surelyOurs(domain: DomainXml): boolean {
  const places = { nbd: `${DEFAULT_DIRECTORY}nbd.sock`, volumes: POOL_PATH }
  return domain.sheepdogDisks(places).length > 0
}

async function moved(domain: DomainXml, places: Places, cluster: HookCluster): Promise<boolean> {
  return domain.relocate(await cluster.everywhere(), places)
}

async function refuseIfOpen(
  domain: DomainXml,
  disks: readonly SheepdogDisk[],
  cluster: HookCluster,
  starting: boolean,
): Promise<void> {
  if (disks.length === 0) return
  const self = await cluster.self()
  for (let waited = 0; ; waited += CLOSING_POLL_MS) {
    const conflict = conflictOf(disks, await cluster.locks(), self, starting)
    if (conflict === null) return
    if (waited >= CLOSING_MS) throw refusal(domain, conflict, self)
    await cluster.sleep(CLOSING_POLL_MS)
  }
}

function conflictOf(
  disks: readonly SheepdogDisk[],
  locks: readonly HookLock[],
  self: string,
  starting: boolean,
): HookLock | null {
  for (const disk of disks) {
    const held = locks.filter(({ volume }) => volume === disk.volume)
    for (const lock of held) {
      if (disk.readOnly && lock.mode === 'read') continue
      if (lock.node === self) {
        // NBD's clients of one host share a volume: two machines would write to one disk.
        if (starting && !disk.shareable && lock.mode === 'write') return lock
      } else if (lock.migration === null || (lock.migration.to !== '' && lock.migration.to !== self)) {
        if (!held.some(({ node, mode }) => node === self && mode === 'target')) return lock
      }
    }
  }
  return null
}

function refusal(domain: DomainXml, lock: HookLock, self: string): SheepError {
  const where = lock.node === self ? 'on this host already' : `on ${lock.nodeName}`
  const hint =
    lock.node === self
      ? 'stop what uses it; a disk that machines of this host are to share is <shareable/>'
      : `stop it there, or migrate it; if that host is lost: dog vdi lock break ${lock.volume}`
  const message = `${domain.name} cannot start here: its volume ${lock.volume} is open ${where}, by ${lock.holder}`
  return new SheepError('locked', message, hint)
}

/** The host that runs the machine goes on with the volumes; this one may open them beside it. */
async function letIn(domain: DomainXml, disks: readonly SheepdogDisk[], cluster: HookCluster): Promise<void> {
  const written = disks.filter(({ readOnly }) => !readOnly)
  if (written.length === 0) return
  const [self, locks] = [await cluster.self(), await cluster.locks()]
  const sources = new Map<string, HookLock>()
  for (const lock of locks) if (lock.mode === 'write' && lock.node !== self) sources.set(lock.volume, lock)
  const announced = written.filter(({ volume }) => sources.has(volume))
  const forgotten = written.find(({ volume }) => !locks.some((lock) => lock.volume === volume))
  if (announced.length > 0 && forgotten !== undefined) {
    const { nodeName } = sources.get(announced[0].volume) as HookLock
    throw unused(domain, forgotten, nodeName)
  }
  for (const { volume } of announced) await cluster.announce(volume, TARGET_SECONDS)
}

/**
 * QEMU comes back to a daemon that was restarted with its next request of that disk. If this host opened the volume first, QEMU on
 * the source would wait for it at the very end of the migration, with the guest standing still, until its reconnect delay is over.
 */
function unused(domain: DomainXml, { volume, target }: SheepdogDisk, source: string): SheepError {
  return new SheepError(
    'busy',
    `${domain.name} cannot come here yet: its machine on ${source} has not used ${volume} since sheep was restarted there`,
    `have the guest read something from ${target} (dd if=/dev/${target} of=/dev/null count=1 iflag=direct), then migrate`,
  )
}

/** A machine that came here and did not stay: the volumes stay where they are. */
async function endAnnounced(disks: readonly SheepdogDisk[], cluster: HookCluster): Promise<void> {
  if (disks.length === 0) return
  const [self, locks] = [await cluster.self(), await cluster.locks()]
  for (const { volume } of disks) {
    const announced = locks.some((lock) => lock.volume === volume && lock.node !== self && lock.migration?.to === self)
    if (announced) await cluster.cancel(volume)
  }
}
