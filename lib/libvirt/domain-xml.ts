/**
 * libvirt's domain XML (libvirt.org/formatdomain.html): which disks of a machine are sheepdog volumes, and how a volume is written as
 * one. A document is changed in place: what this program does not know stays as it is.
 */
import { posix } from 'node:path'
import { DOMParser, type Document, type Element, XMLSerializer } from '@xmldom/xmldom'
import { SheepError } from '../errors.js'

/** Of the storage pool (libvirt-hooks/sheepdog.xml) */
export const POOL_NAME = 'sheepdog'
export const POOL_PATH = '/var/lib/sheepdog/volumes'
/** A guest waits so long for its daemon to come back; then it gets I/O errors. Seconds */
const RECONNECT_SECONDS = 300
/** No domain has a thousandth of it. */
const XML_CHARS_MAX = 16 << 20
const DISKS_MAX = 702
const XML = 'application/xml'

/** Where a host has its volumes. '' nowhere. */
export interface Places {
  /** Unix socket of the NBD server */
  nbd: string
  /** Directory in which each is a file */
  volumes: string
}

export interface SheepdogDisk {
  /** NAME or NAME@TAG */
  volume: string
  how: 'nbd' | 'file' | 'pool'
  /** `vda` */
  target: string
  readOnly: boolean
  /** Several machines may have it at once, says its owner */
  shareable: boolean
  element: Element
}

export class DomainXml {
  private constructor(
    private readonly document: Document,
    private readonly root: Element,
  ) {}

  /** SheepError invalid */
  static parse(text: string): DomainXml {
    const document = parsed(text)
    const root = document.documentElement
    if (root?.localName !== 'domain') throw new SheepError('invalid', `this is no <domain> of libvirt's`)
    return new DomainXml(document, root)
  }

  get name(): string {
    return child(this.root, 'name')?.textContent ?? ''
  }

  /** Of `<devices>`, `/dev` or not: what their guests may call them */
  get targets(): Set<string> {
    return new Set(this.disks().map(targetOf))
  }

  /** The first that is not taken: vda, vdb, ... vdz, vdaa. SheepError no-space */
  freeTarget(prefix: string, targets: ReadonlySet<string> = this.targets): string {
    for (let number = 0; number < DISKS_MAX; number++) {
      const name = prefix + letters(number)
      if (!targets.has(name)) return name
    }
    throw new SheepError('no-space', `domain ${this.name} has ${DISKS_MAX} disks already`)
  }

  /** Disks whose data are volumes of one of these places, in the document's order. */
  sheepdogDisks(...places: readonly Places[]): SheepdogDisk[] {
    const found: SheepdogDisk[] = []
    for (const element of this.disks()) {
      const source = child(element, 'source')
      const what = source === null ? null : volumeOf(element, source, places)
      if (what === null) continue
      found.push({
        ...what,
        target: targetOf(element),
        readOnly: child(element, 'readonly') !== null,
        shareable: child(element, 'shareable') !== null,
        element,
      })
    }
    return found
  }

  /** Files of volumes become network disks. What stays a file, and why. */
  convert(places: Places): { converted: SheepdogDisk[]; kept: { disk: SheepdogDisk; reason: string }[] } {
    const converted: SheepdogDisk[] = []
    const kept: { disk: SheepdogDisk; reason: string }[] = []
    for (const disk of this.sheepdogDisks(places)) {
      if (disk.how === 'nbd') continue
      const reason = obstacleOf(disk.element)
      if (reason === '') {
        this.toNetwork(disk, places.nbd)
        converted.push(disk)
      } else {
        kept.push({ disk, reason })
      }
    }
    return { converted, kept }
  }

  /** What another host calls its places becomes what this one calls them. False: nothing had to change. */
  relocate(from: readonly Places[], to: Places): boolean {
    let changed = false
    for (const { element, how } of this.sheepdogDisks(...from)) {
      const source = child(element, 'source') as Element
      if (how === 'nbd' && to.nbd !== '') {
        const host = child(source, 'host') as Element
        if (host.getAttribute('socket') === to.nbd) continue
        host.setAttribute('socket', to.nbd)
        changed = true
      } else if (how === 'file' && to.volumes !== '') {
        const moved = posix.join(to.volumes, posix.basename(source.getAttribute('file') ?? ''))
        if (source.getAttribute('file') === moved) continue
        source.setAttribute('file', moved)
        changed = true
      }
    }
    return changed
  }

  toString(): string {
    return new XMLSerializer().serializeToString(this.document)
  }

  private disks(): Element[] {
    const devices = child(this.root, 'devices')
    return devices === null ? [] : children(devices, 'disk')
  }

  private toNetwork({ element, volume }: SheepdogDisk, socket: string): void {
    const { document } = this
    element.setAttribute('type', 'network')
    const old = child(element, 'source') as Element
    const source = networkSource(document, volume, socket)
    const indent = old.previousSibling?.nodeType === old.TEXT_NODE ? (old.previousSibling.nodeValue ?? '') : ''
    // LUKS goes with the bytes; labels and startup policy are of files.
    for (const kept of children(old, 'encryption')) source.insertBefore(kept, source.firstChild)
    spread(document, source, indent)
    element.replaceChild(source, old)
    for (const one of children(element, 'backingStore')) drop(one)
    let driver = child(element, 'driver')
    if (driver === null) {
      driver = document.createElement('driver')
      element.insertBefore(driver, source)
      if (indent !== '') element.insertBefore(document.createTextNode(indent), source)
    }
    setDriver(driver)
  }
}

/** The element by which a machine has a volume: NAME or NAME@TAG, which is read-only. */
export function diskXml(volume: string, target: string, places: Places): string {
  if (places.nbd === '') throw new SheepError('invalid', 'that daemon has no Unix socket for NBD')
  const document = parsed('<disk type="network" device="disk"/>')
  const disk = document.documentElement as Element
  const driver = document.createElement('driver')
  setDriver(driver)
  const element = document.createElement('target')
  element.setAttribute('dev', target)
  element.setAttribute('bus', busOf(target))
  const parts = [driver, networkSource(document, volume, places.nbd), element]
  if (volume.includes('@')) parts.push(document.createElement('readonly'))
  for (const part of parts) {
    disk.appendChild(part)
    spread(document, part, '\n  ')
  }
  spread(document, disk, '\n')
  return `${new XMLSerializer().serializeToString(disk)}\n`
}

/** The pool's definition. */
export function poolXml(name: string, path: string): string {
  const document = parsed('<pool type="dir"><name/><target><path/></target></pool>')
  const pool = document.documentElement as Element
  const target = child(pool, 'target') as Element
  ;(child(pool, 'name') as Element).textContent = name
  ;(child(target, 'path') as Element).textContent = path
  spread(document, target, '\n  ')
  spread(document, pool, '\n')
  return `${new XMLSerializer().serializeToString(pool)}\n`
}

/** A directory pool's path; '' it is of another kind. */
export function directoryOfPool(text: string): string {
  const pool = parsed(text).documentElement
  if (pool?.localName !== 'pool' || pool.getAttribute('type') !== 'dir') return ''
  const target = child(pool, 'target')
  const path = target === null ? null : child(target, 'path')
  return path === null ? '' : posix.resolve('/', path.textContent?.trim() ?? '')
}

/** One disk alone, as libvirt takes it for detaching. */
export function elementXml(element: Element): string {
  return new XMLSerializer().serializeToString(element)
}

/** SheepError invalid: no name of a disk that a bus is known for */
export function busOf(target: string): string {
  const buses: Record<string, string> = { vd: 'virtio', sd: 'scsi', hd: 'ide' }
  const [, prefix = ''] = /^(vd|sd|hd)[a-z]{1,2}$/.exec(target) ?? []
  if (prefix === '') {
    throw new SheepError(
      'invalid',
      `${JSON.stringify(target)} is no name of a disk`,
      'use vda (virtio), sda (SCSI), ...',
    )
  }
  return buses[prefix]
}

function volumeOf(
  disk: Element,
  source: Element,
  places: readonly Places[],
): { volume: string; how: SheepdogDisk['how'] } | null {
  switch (disk.getAttribute('type')) {
    case 'network': {
      const host = child(source, 'host')
      const volume = source.getAttribute('name') ?? ''
      if (source.getAttribute('protocol') !== 'nbd' || host?.getAttribute('transport') !== 'unix') return null
      const socket = host.getAttribute('socket') ?? ''
      if (volume === '' || !places.some(({ nbd }) => nbd !== '' && nbd === socket)) return null
      return { volume, how: 'nbd' }
    }
    case 'file': {
      const file = posix.normalize(source.getAttribute('file') ?? '')
      if (!places.some(({ volumes }) => volumes !== '' && posix.dirname(file) === volumes)) return null
      return { volume: posix.basename(file), how: 'file' }
    }
    case 'volume': {
      const volume = source.getAttribute('volume') ?? ''
      return source.getAttribute('pool') === POOL_NAME && volume !== '' ? { volume, how: 'pool' } : null
    }
    default:
      return null
  }
}

function obstacleOf(disk: Element): string {
  const type = child(disk, 'driver')?.getAttribute('type') ?? 'raw'
  if (type !== 'raw') return `its format is ${type}: that grows in a file, and cannot by NBD`
  const device = disk.getAttribute('device') ?? 'disk'
  if (device === 'floppy') return 'a floppy disk is a file'
  return ''
}

function networkSource(document: Document, volume: string, socket: string): Element {
  const source = document.createElement('source')
  source.setAttribute('protocol', 'nbd')
  source.setAttribute('name', volume)
  const host = document.createElement('host')
  host.setAttribute('transport', 'unix')
  host.setAttribute('socket', socket)
  const reconnect = document.createElement('reconnect')
  reconnect.setAttribute('delay', String(RECONNECT_SECONDS))
  source.appendChild(host)
  source.appendChild(reconnect)
  return source
}

/**
 * No page cache of the host: two hosts have the disk in a migration. Discards reach the cluster. `io` is of files: QEMU has no
 * choice for NBD.
 */
function setDriver(driver: Element): void {
  if (!driver.hasAttribute('name')) driver.setAttribute('name', 'qemu')
  if (!driver.hasAttribute('type')) driver.setAttribute('type', 'raw')
  driver.setAttribute('cache', 'none')
  driver.removeAttribute('io')
  if (!driver.hasAttribute('discard')) driver.setAttribute('discard', 'unmap')
}

function targetOf(disk: Element): string {
  return child(disk, 'target')?.getAttribute('dev') ?? ''
}

/** a ... z, aa ... zz */
function letters(number: number): string {
  const a = 'a'.charCodeAt(0)
  const last = String.fromCharCode(a + (number % 26))
  return number < 26 ? last : String.fromCharCode(a + Math.floor(number / 26) - 1) + last
}

function children(parent: Element, name: string): Element[] {
  const found: Element[] = []
  for (let node = parent.firstChild; node !== null; node = node.nextSibling) {
    if (node.nodeType === node.ELEMENT_NODE && (node as Element).localName === name) found.push(node as Element)
  }
  return found
}

function child(parent: Element, name: string): Element | null {
  return children(parent, name)[0] ?? null
}

/** With the white space before it. */
function drop(element: Element): void {
  const before = element.previousSibling
  if (before !== null && before.nodeType === before.TEXT_NODE && before.nodeValue?.trim() === '') {
    before.parentNode?.removeChild(before)
  }
  element.parentNode?.removeChild(element)
}

/** Its elements on lines of their own, two columns right of `indent`. */
function spread(document: Document, parent: Element, indent: string): void {
  if (!indent.includes('\n') || parent.firstChild === null) return
  for (let node: Element['firstChild'] = parent.firstChild; node !== null; node = node.nextSibling) {
    if (node.nodeType === node.ELEMENT_NODE) parent.insertBefore(document.createTextNode(`${indent}  `), node)
  }
  parent.appendChild(document.createTextNode(indent))
}

function parsed(text: string): Document {
  if (text.length > XML_CHARS_MAX) throw new SheepError('invalid', 'this XML is too long for a definition of libvirt')
  try {
    const parser = new DOMParser({
      onError: (level, message) => {
        if (level !== 'warning') throw new Error(message)
      },
    })
    return parser.parseFromString(text, XML)
  } catch (error) {
    const [line] = (error as Error).message.split('\n')
    throw new SheepError('invalid', `this is no XML: ${line}`)
  }
}
