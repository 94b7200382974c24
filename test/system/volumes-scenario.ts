/** The volumes directory as the unit makes it: there on the host, the daemon with few rights, restarts that files only wait for. */
import { until } from '../support/process.js'
import type { SystemCluster } from './cluster.js'
import type { Host } from './host.js'
import type { Scenario } from './scenario.js'

const PLACE = '/var/lib/sheepdog/volumes'
const FILE = `${PLACE}/writer`
const STOP = '/var/tmp/enough-file'
const COUNT = '/var/tmp/written'
/** Of one write, ms: a restart lies within it */
const PAUSE_MAX = 20_000

/** Holds the file open and writes numbered blocks with direct data sync, one at a time; at the end reads all back. */
const WRITER = `
const fs = require('node:fs')
const { O_RDWR, O_CREAT, O_TRUNC, O_DSYNC } = fs.constants
const fd = fs.openSync('${FILE}', O_RDWR | O_CREAT | O_TRUNC | O_DSYNC)
const block = Buffer.alloc(4096)
let count = 0, longest = 0
while (!fs.existsSync('${STOP}')) {
  block.fill(count % 251)
  block.writeUInt32LE(count)
  const start = performance.now()
  if (fs.writeSync(fd, block, 0, 4096, count * 4096) !== 4096) throw new Error('short')
  longest = Math.max(longest, performance.now() - start)
  count++
  fs.writeFileSync('${COUNT}', String(count))
}
for (let i = 0; i < count; i++) {
  fs.readSync(fd, block, 0, 4096, i * 4096)
  if (block.readUInt32LE() !== i || block[4095] !== i % 251) throw new Error('block ' + i + ' is another')
}
if (fs.fstatSync(fd).size !== count * 4096) throw new Error('the file is ' + fs.fstatSync(fd).size + ' long')
console.log(JSON.stringify({ count, longest: Math.round(longest) }))
`

async function mounted(host: Host): Promise<boolean> {
  return (await host.try('findmnt', ['-t', 'fuse,fuse.sheepdog', PLACE])).code === 0
}

function written(host: Host): number {
  return Number(host.read(COUNT))
}

async function goesOn(host: Host): Promise<void> {
  const before = written(host)
  await until('the file to be written on', PAUSE_MAX, () => Promise.resolve(written(host) > before + 20))
}

/** Begins to write; `end` waits until it has read all back. */
export function fileWriter(cluster: SystemCluster, host: Host): { goesOn(): Promise<void>; end(): Promise<void> } {
  host.write(COUNT, '0')
  const writer = host.run('sh', ['-c', 'rm -f "$1" && exec node -e "$2"', 'sh', STOP, WRITER], { limit: 240_000 })
  writer.catch(() => undefined)
  return {
    goesOn: () => goesOn(host),
    async end() {
      host.write(STOP, '')
      const { count, longest } = JSON.parse(await writer) as { count: number; longest: number }
      cluster.say(`  ${count} blocks of a file, the longest waited ${longest} ms`)
    },
  }
}

async function restarts(cluster: SystemCluster, host: Host): Promise<void> {
  const restarted = fileWriter(cluster, host)
  await goesOn(host)
  cluster.say('  systemctl restart:')
  await host.run('systemctl', ['restart', 'sheepdog'])
  await goesOn(host)
  await restarted.end()
  const killed = fileWriter(cluster, host)
  await goesOn(host)
  cluster.say('  kill -9, after which systemd waits for RestartSec:')
  const pid = Number(await host.run('systemctl', ['show', 'sheepdog', '-P', 'MainPID']))
  await host.run('kill', ['-9', String(pid)])
  await goesOn(host)
  await killed.end()
  const said = await host.run('journalctl', ['-u', 'sheepdog', '-o', 'cat', '--no-pager'])
  const takenOver = said.match(/took over the volumes directory \S+.*open=1/g)?.length ?? 0
  if (takenOver !== 2) throw new Error(`the open file was taken over ${takenOver} times, not twice`)
}

const STATE = '/var/lib/sheepdog/volumes-mount.json'
/** Holds a file open while the daemon is killed, and says what becomes of a write to it. */
const HOLDER = `
exec 3>>${PLACE}/held
echo before >&3
systemctl kill --signal=KILL sheepdog
sed -i 's/"resend":true/"resend":false/' ${STATE}
grep -q '"resend":false' ${STATE} || exit 3
timeout 30 sh -c 'until stat -t ${PLACE} >/dev/null 2>&1 && systemctl -q is-active sheepdog; do sleep 0.2; done' || exit 4
echo after >&3
`

/** A kernel before 6.9, as far as the next process can tell: what the killed one had taken would never be answered. */
async function withoutResend(host: Host): Promise<void> {
  const { code, stderr } = await host.try('sh', ['-c', HOLDER])
  if (code === 0 || !/endpoint is not connected|I\/O error/.test(stderr))
    throw new Error(`a file whose daemon was killed ended with ${code}: ${stderr}`)
  if ((await host.run('cat', [`${PLACE}/held`])) !== 'before\n') throw new Error('what was written is not there')
  const said = await host.run('journalctl', ['-u', 'sheepdog', '-o', 'cat', '--no-pager'])
  if (!/that was kept is given up/.test(said)) throw new Error('nobody is told that files must be opened again')
  await host.run('rm', [`${PLACE}/held`])
}

export const volumesScenario: Scenario = {
  name: 'volumes',
  title: 'the volumes directory is there on the host, and an open file only waits while the daemon restarts',
  short: true,
  async run(cluster) {
    const [first, second] = cluster.hosts
    await until('the volumes directory', PAUSE_MAX, () => mounted(first))
    await first.run('sh', ['-c', `echo made > ${PLACE}/made`])
    const listed = await second.run('dog', ['vdi', 'list', '-r'])
    if (!/\bmade\b/.test(listed)) throw new Error(`a new file is no volume:\n${listed}`)
    if ((await second.run('cat', [`${PLACE}/made`])) !== 'made\n') throw new Error('another host reads other bytes')
    await restarts(cluster, first)
    await withoutResend(first)
    await first.run('rm', [FILE, `${PLACE}/made`])
    await first.run('systemctl', ['stop', 'sheepdog'])
    if (await mounted(first)) throw new Error('the daemon is stopped and its mount is there')
    await first.run('systemctl', ['start', 'sheepdog'])
    await first.run('stat', [PLACE])
    if (!(await mounted(first))) throw new Error('started again, and no volumes directory')
    await cluster.healthy()
  },
}
