/** Domain XML: which disks are volumes, how a volume is written, and that everything else stays as it was. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { SheepError } from '../../../lib/errors.js'
import {
  busOf,
  DomainXml,
  directoryOfPool,
  diskXml,
  POOL_NAME,
  POOL_PATH,
  poolXml,
} from '../../../lib/libvirt/domain-xml.js'
import { domainXml, fileDisk, nbdDisk, otherDisk, places, poolDisk } from '../../support/domains.js'

const project = join(import.meta.dirname, '..', '..', '..', '..')
const all = [fileDisk('web', 'vda'), otherDisk('vdb'), nbdDisk('data@monday', 'vdc'), poolDisk('logs', 'vdd')]

test('the disks of a domain that are volumes, however they are written', (t) => {
  const elsewhere = nbdDisk('foreign', 'vde', '/run/other.sock')
  const below = fileDisk('../elsewhere/file', 'vdf')
  const found = DomainXml.parse(domainXml('web1', [...all, elsewhere, below])).sheepdogDisks(places)
  t.deepEqual(
    found.map(({ volume, how, target }) => [volume, how, target]),
    [
      ['web', 'file', 'vda'],
      ['data@monday', 'nbd', 'vdc'],
      ['logs', 'pool', 'vdd'],
    ],
  )
  t.deepEqual(DomainXml.parse(domainXml('web1', [otherDisk('vda')])).sheepdogDisks(places), [])
})

test('any volume name becomes an element that names the same volume again', (t) => {
  const name = fc
    .string({ unit: 'grapheme', minLength: 1 })
    .filter((text) => /^[^\p{Cc}\p{Cs}\p{Cn}\p{Zl}\p{Zp}/@]+$/u.test(text))
  fc.assert(
    fc.property(name, (volume) => {
      const xml = diskXml(volume, 'vda', places)
      const [disk] = DomainXml.parse(domainXml('web1', [xml])).sheepdogDisks(places)
      return disk?.volume === volume && disk.how === 'nbd' && !disk.readOnly
    }),
  )
  const snapshot = diskXml('disk@monday', 'sdb', places)
  t.true(DomainXml.parse(domainXml('web1', [snapshot])).sheepdogDisks(places)[0].readOnly)
  t.regex(snapshot, /<target dev="sdb" bus="scsi"\/>/)
  t.regex(snapshot, /<reconnect delay="300"\/>/)
  t.regex(snapshot, /cache="none" discard="unmap"/)
})

test('files of the pool become network disks; the rest of the document stays', (t) => {
  const before = domainXml('web1', [...all, fileDisk('grows', 'vde', 'qcow2')])
  const domain = DomainXml.parse(before)
  const { converted, kept } = domain.convert(places)
  t.deepEqual(
    converted.map(({ volume, target }) => [volume, target]),
    [
      ['web', 'vda'],
      ['logs', 'vdd'],
    ],
  )
  t.deepEqual(
    kept.map(({ disk }) => disk.volume),
    ['grows'],
  )
  t.regex(kept[0].reason, /qcow2/)
  const after = DomainXml.parse(String(domain))
  t.deepEqual(
    after.sheepdogDisks(places).map(({ volume, how }) => [volume, how]),
    [
      ['web', 'nbd'],
      ['data@monday', 'nbd'],
      ['logs', 'nbd'],
      ['grows', 'file'],
    ],
  )
  const text = String(domain)
  t.regex(text, /<serial>s-vda<\/serial>/)
  t.regex(text, /by &lt;hand&gt; <!-- on a Monday -->/)
  const [first] = text.split('<target')
  t.notRegex(first, /io=|backingStore|startupPolicy/)
  t.regex(first, /cache="none"/)
  t.regex(text, /io="native"[\s\S]*volumes\/grows/, 'what is not converted is not changed')
  t.deepEqual(after.convert(places).converted, [], 'once is enough')
})

test("another host's places become this one's", (t) => {
  const other = { nbd: '/srv/b/nbd.sock', volumes: '/srv/b/volumes' }
  const foreign = nbdDisk('theirs', 'vdc', '/run/other.sock')
  const xml = domainXml('web1', [nbdDisk('web', 'vda', other.nbd), fileDisk('log', 'vdb'), foreign])
  const domain = DomainXml.parse(xml.replace(places.volumes, other.volumes))
  t.true(domain.relocate([other, places], places))
  t.deepEqual(
    domain.sheepdogDisks(places).map(({ volume }) => volume),
    ['web', 'log'],
  )
  t.regex(String(domain), /\/run\/other\.sock/)
  t.false(domain.relocate([other, places], places), 'nothing is left to change')
})

test('targets: the first free one, on the bus that its name says', (t) => {
  const many = Array.from({ length: 27 }, (_, at) => otherDisk(at < 26 ? `vd${String.fromCharCode(97 + at)}` : 'vdaa'))
  t.is(DomainXml.parse(domainXml('web1', many)).freeTarget('vd'), 'vdab')
  t.is(DomainXml.parse(domainXml('web1', [])).freeTarget('vd'), 'vda')
  t.is(busOf('sda'), 'scsi')
  for (const wrong of ['', 'vd', 'xvda', 'vda1', 'vd a', "vda' x='"]) {
    t.throws(() => busOf(wrong), { instanceOf: SheepError }, wrong)
  }
})

test('what is no domain is an error that says so, whatever it is', (t) => {
  for (const wrong of ['', 'text', '<a', '<a></b>', '<pool/>', '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', '\0']) {
    t.throws(() => DomainXml.parse(wrong), { instanceOf: SheepError, code: 'invalid' }, wrong)
  }
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.nat(), (noise, at) => {
      const text = domainXml('web1', all)
      const place = at % text.length
      try {
        DomainXml.parse(text.slice(0, place) + noise + text.slice(place)).sheepdogDisks(places)
      } catch (error) {
        if (!(error instanceof SheepError)) throw error
      }
    }),
    { numRuns: 300 },
  )
  t.throws(() => DomainXml.parse(' '.repeat((16 << 20) + 1)), { message: /too long/ })
})

test("the pool's definition in libvirt-hooks is what the daemon defines", (t) => {
  const file = readFileSync(join(project, 'libvirt-hooks', 'sheepdog.xml'), 'utf8')
  t.is(file, poolXml(POOL_NAME, POOL_PATH))
  t.is(directoryOfPool(file), POOL_PATH)
  t.is(directoryOfPool(file.replace('type="dir"', 'type="fs"')), '')
  t.is(directoryOfPool("<pool type='dir'><name>sheepdog</name></pool>"), '')
  t.is(directoryOfPool(file.replace('volumes', 'volumes/')), POOL_PATH)
})
