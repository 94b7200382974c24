/** lib/libvirt and dog with the real library and its test driver, which needs no daemon: its hosts are files of ours. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import type { SheepError } from '../../lib/errors.js'
import { RealClock } from '../../lib/host/clock.js'
import { DomainXml, directoryOfPool, diskXml, poolXml } from '../../lib/libvirt/domain-xml.js'
import { Libvirt } from '../../lib/libvirt/libvirt.js'
import { PoolRegistrar } from '../../lib/libvirt/registrar.js'
import { dogProgram } from '../support/cluster.js'
import { listenControl } from '../support/control-listener.js'
import { fileDisk, nbdDisk, otherDisk, places, poolDisk, testHost } from '../support/domains.js'
import { FakeServices } from '../support/fake-services.js'
import { ended, isAlive, run, sleep, until } from '../support/process.js'

const SYSTEM = 'test:///default'

function obstacle(): string {
  try {
    createRequire(import.meta.url)('koffi').load('libvirt.so.0')
    return ''
  } catch (error) {
    return `${(error as Error).message} (packaging/tools/prepare.mjs installs libvirt0)`
  }
}

const why = obstacle()

if (why !== '') {
  test(`libvirt CANNOT BE TESTED HERE: ${why}`, (t) => {
    t.log(`NOT TESTED: lib/libvirt, dog libvirt, dog vdi snapshot --domain. ${why}`)
    t.pass()
  })
} else {
  const directory = mkdtempSync(join(tmpdir(), 'sheep-libvirt-'))
  const host = join(directory, 'host.xml')
  const uri = `test://${host}`
  writeFileSync(
    host,
    testHost(
      {
        web1: [nbdDisk('disk', 'vda'), fileDisk('web 東京', 'vdb'), otherDisk('vdc')],
        off1: [fileDisk('disk', 'vda'), poolDisk('data', 'vdb'), fileDisk('grows', 'vdc', 'qcow2')],
        plain: [otherDisk('vda')],
      },
      ['off1'],
    ),
  )
  test.after.always(() => rmSync(directory, { recursive: true, force: true }))

  const opened = async (t: { teardown(run: () => void): void }, at = uri): Promise<Libvirt> => {
    const libvirt = await Libvirt.open([at])
    t.teardown(() => libvirt.close())
    return libvirt
  }

  test('a pool: defined, started, looked into, by the calls that the daemon makes', async (t) => {
    const libvirt = await opened(t, SYSTEM)
    t.is(await libvirt.call('poolInfo', 'sheepdog'), null)
    t.false(await libvirt.call('poolRefresh', 'sheepdog'))
    await libvirt.call('poolDefine', poolXml('sheepdog', '/var/lib/sheepdog/volumes'))
    t.like(await libvirt.call('poolInfo', 'sheepdog'), { active: false, autostart: false, persistent: true })
    t.false(await libvirt.call('poolRefresh', 'sheepdog'), 'one that is off is left off')
    await libvirt.call('poolAutostart', 'sheepdog')
    await libvirt.call('poolStart', 'sheepdog')
    const info = await libvirt.call('poolInfo', 'sheepdog')
    t.like(info, { active: true, autostart: true })
    t.is(directoryOfPool(info?.xml ?? ''), '/var/lib/sheepdog/volumes')
    t.true(await libvirt.call('poolRefresh', 'sheepdog'))
    await t.throwsAsync(libvirt.call('poolStart', 'sheepdog'), { message: /libvirt: starting pool sheepdog: / })
    await t.throwsAsync(libvirt.call('poolStart', 'none'), { code: 'not-found' })
  })

  test('the registrar and the library: a pool of this name that exists is told apart from ours', async (t) => {
    const said: string[] = []
    let libvirt: Libvirt | null = null
    const start = (directoryOf: string, before: (of: Libvirt) => Promise<unknown>) =>
      new PoolRegistrar({
        directory: directoryOf,
        clock: new RealClock(),
        log: (_, message) => said.push(message),
        libvirtSeen: () => 'there',
        served: () => true,
        connect: async () => {
          libvirt = await Libvirt.open([SYSTEM])
          await before(libvirt)
          return libvirt
        },
      })
    const registrar = start('/srv/volumes', async () => undefined)
    t.teardown(() => registrar.stop())
    const word = await until('the pool', 20_000, () => said.find((line) => line.includes('is defined and started')))
    t.regex(word, /test:\/\/\/default/)
    await until('the first look', 20_000, () => said.find((line) => line.includes('has looked again')))
    const other = start('/srv/volumes', (of) => of.call('poolDefine', poolXml('sheepdog', '/srv/other')))
    t.teardown(() => other.stop())
    await until('the warning', 20_000, () => said.find((line) => line.includes('is left alone')))
    t.is((await (libvirt as Libvirt | null)?.call('poolInfo', 'sheepdog'))?.active, false)
  })

  test('domains: by name or UUID, attached to, changed, defined anew', async (t) => {
    const libvirt = await opened(t)
    const info = await libvirt.call('domain', 'web1')
    t.like(info, { name: 'web1', active: true, persistent: true })
    t.deepEqual(await libvirt.call('domain', info.uuid), info)
    t.false((await libvirt.call('domain', 'off1')).active)
    await t.throwsAsync(libvirt.call('domain', 'none'), { code: 'not-found', message: /libvirt: domain none: / })
    const disks = async (name: string) =>
      DomainXml.parse(await libvirt.call('domainXml', name, 'config'))
        .sheepdogDisks(places)
        .map(({ volume, how, target }) => `${target} ${volume} ${how}`)
    // libvirt takes what we write, and says the same.
    const odd = `a'b & "c" <d>`
    const plain = await libvirt.call('domainXml', 'plain', 'config')
    await libvirt.call('defineDomain', plain.replace('</devices>', `${diskXml(odd, 'vdb', places)}</devices>`))
    const again = DomainXml.parse(await libvirt.call('domainXml', 'plain', 'config'))
    t.is(again.sheepdogDisks(places)[0]?.volume, odd)
    // Its test driver takes no disk of a machine that runs: test/system does that with QEMU.
    await t.throwsAsync(libvirt.call('attachDevice', 'plain', diskXml('new', 'vdb', places), ['live']), {
      message: /^libvirt: attaching to plain: /,
    })
    const document = DomainXml.parse(await libvirt.call('domainXml', 'off1', 'config'))
    t.is(document.convert(places).converted.length, 2)
    await libvirt.call('defineDomain', String(document))
    t.deepEqual(await disks('off1'), ['vda disk nbd', 'vdb data nbd', 'vdc grows file'])
    await t.throwsAsync(libvirt.call('defineDomain', '<domain/>'), { message: /libvirt: defining a domain: / })
  })

  test('a machine stands still, and goes on: when it is told to, and when its time is over', async (t) => {
    const libvirt = await opened(t)
    t.deepEqual(await libvirt.call('quiesce', 'web1', true, 20), { frozen: 2, noAgent: '', suspended: true })
    await t.throwsAsync(libvirt.call('quiesce', 'web1', true, 20), { code: 'busy' }, 'one that stands still already')
    t.true(await libvirt.call('release'))
    t.false(await libvirt.call('release'))
    t.deepEqual(await libvirt.call('quiesce', 'web1', false, 1), { frozen: 0, noAgent: '', suspended: true })
    await sleep(1_500)
    t.false(await libvirt.call('release'), 'its time was over')
    t.like(await libvirt.call('quiesce', 'web1', false, 20), { suspended: true })
    t.true(await libvirt.call('release'))
    const off = await libvirt.call('quiesce', 'off1', true, 20)
    t.like(off, { frozen: 0, suspended: false })
    t.regex(off.noAgent, /not running/)
    t.true(await libvirt.call('release'))
  })

  test('what cannot be opened, and a helper that is killed, are errors and nothing worse', async (t) => {
    const code = async (at: string) => (await t.throwsAsync<SheepError>(Libvirt.open([at])))?.code
    t.is(await code('test:///nonexistent.xml'), 'unreachable')
    t.is(await code(`qemu:///system?socket=${directory}/none`), 'unreachable')
    const libvirt = await opened(t)
    const { pid } = (libvirt as unknown as { helper: { pid: number } }).helper
    process.kill(pid, 'SIGKILL')
    await until('its end', 5_000, () => libvirt.closed)
    await t.throwsAsync(libvirt.call('domain', 'web1'), { code: 'unreachable', message: /SIGKILL/ })
  })

  test('the helper ends with whoever started it', async (t) => {
    const program = new URL('../../lib/libvirt/libvirt.js', import.meta.url).href
    const code = `
      const { Libvirt } = await import(${JSON.stringify(program)})
      const libvirt = await Libvirt.open([${JSON.stringify(uri)}])
      if (process.argv[1] === 'still') await libvirt.call('quiesce', 'web1', true, 20)
      console.log(libvirt.helper.pid)
      setInterval(() => {}, 1000)`
    for (const word of ['still', 'idle']) {
      const owner = spawn(process.execPath, ['--input-type=module', '-e', code, word], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      let said = ''
      owner.stdout.on('data', (text) => {
        said += text
      })
      await until('its helper', 30_000, () => said.includes('\n'))
      const helper = Number(said)
      t.true(isAlive(helper))
      owner.kill('SIGKILL')
      await ended(owner)
      await until('the helper to end', 10_000, () => !isAlive(helper))
    }
  })

  // --- dog

  const dog = async (t: { teardown(run: () => void): void }, services: FakeServices) => {
    const listener = await listenControl(services)
    t.teardown(() => listener.close())
    return async (...words: string[]) => {
      const env = { LIBVIRT_DEFAULT_URI: uri, SHEEPDOG_SOCKET: '', SHEEPDOG_ADDRESS: '', LC_ALL: 'C.UTF-8' }
      const args = [dogProgram, '-p', String(listener.port), ...words]
      const { code, stdout, stderr } = await run(process.execPath, args, { env, limit: 60_000 })
      return `${code} ${stdout}${stderr}`
    }
  }

  test('dog libvirt attach, detach, convert: what a person sees', async (t) => {
    t.timeout(120_000)
    const services = new FakeServices()
    services.volumes.add('new', 1 << 26)
    const say = await dog(t, services)
    t.regex(await say('libvirt', 'attach', 'plain', 'new'), /^1 dog: libvirt: attaching to plain: .*not supported/)
    t.regex(await say('libvirt', 'attach', 'web1', 'disk'), /^4 dog: web1 has disk already, as vda \(running\)\n/)
    t.regex(await say('libvirt', 'attach', 'web1', 'new', '--target', 'vdc'), /^4 dog: web1 has a disk vdc already/)
    t.regex(await say('libvirt', 'attach', 'off1', 'new', '--live'), /^2 dog: off1 does not run\n/)
    t.regex(await say('libvirt', 'attach', 'none', 'new'), /^3 dog: libvirt: domain none: .*\n {2}virsh list --all/)
    t.regex(
      await say('libvirt', 'attach', 'plain', 'new', '-c', 'test:///none.xml'),
      /^5 dog: libvirt: test:\/\/\/none/,
    )
    t.regex(await say('libvirt', 'detach', 'web1', 'new'), /^3 dog: web1 has no disk new \(running\)\n/)
    t.is(
      await say('libvirt', 'convert', 'off1'),
      '0 vda of off1 is volume disk by NBD.\nvdb of off1 is volume data by NBD.\n' +
        'vdc stays the file of volume grows: its format is qcow2: that grows in a file, and cannot by NBD.\n',
    )
    t.regex(await say('libvirt', 'convert', 'web1'), /web1 runs with its files until it is shut down; its next start/)
    t.regex(await say('libvirt', 'convert', 'plain'), /^0 plain has no disk that is a file of a volume/)
  })

  test('dog vdi snapshot --domain: all volumes of the machine, none when one fails', async (t) => {
    t.timeout(120_000)
    const services = new FakeServices()
    const say = await dog(t, services)
    t.is(
      await say('vdi', 'snapshot', '-s', 'friday', '--domain', 'web1'),
      '0 Snapshot of web1 taken, 2 of its file systems frozen: disk@friday, web 東京@friday.\n',
    )
    const taken: string[] = []
    const deleted: string[] = []
    const { snapshot } = services.vdis
    services.vdis.snapshot = async (name, tag) => {
      if (name !== 'disk') throw Object.assign(new Error('no room'), { code: 'no-space' })
      taken.push(name)
      return snapshot(name, tag)
    }
    services.vdis.delete = async (name, tag) => void deleted.push(`${name}@${tag}`)
    t.regex(await say('vdi', 'snapshot', '-s', 'sunday', '--domain', 'web1'), /^[1-9]\d* dog: .*no room/)
    t.deepEqual([taken, deleted], [['disk'], ['disk@sunday']])
    t.regex(await say('vdi', 'snapshot', '-s', 'x', '--domain', 'plain'), /^3 dog: plain has no disk that is a volume/)
    t.regex(
      await say('vdi', 'snapshot', '-s', 'monday', '--domain', 'web1'),
      /^4 dog: disk has a snapshot monday already/,
    )
  })
}
