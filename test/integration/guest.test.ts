/**
 * A real QEMU with a guest on a replicated volume while daemons die. The guest is a boot sector: no kernel to install, and
 * every request of it goes the whole way through virtio, QEMU's NBD client and the cluster.
 */
import { spawn } from 'node:child_process'
import test from 'ava'
import { TestCluster } from '../support/cluster.js'
import { ended, until } from '../support/process.js'
import { surveyReplicas } from '../support/replicas.js'

const firstSector = 64
const blockSectors = 8
const blockBytes = blockSectors * 512
const blocksPerPass = 512

/**
 * 16-bit code, loaded at 0x7c00. In pass after pass over 2 MiB from sector 64 on it fills a buffer of 4 KiB with words of
 * (sector xor pass), writes it (int 13h, AH=43h, with the packet at the end), clears the buffer, reads it back (AH=42h),
 * compares, and says '.' on the serial port (0x3f8). After each pass 'K', and '!' at the first error.
 */
const bootCode = [
  'fc 31c0 8ed8 8ec0 8ed0 bc007c', // cld; ax = ds = es = ss = 0; sp = 0x7c00
  'e83e00 f3ab', // next: call pattern; rep stosw
  'b80043 e84400', // ax = 0x4300; call disk
  'e83300 31c0 f3ab', // call pattern; ax = 0; rep stosw
  'b442 e83800', // ah = 0x42; call disk
  'e82700 f3af 7539', // call pattern; repe scasw; jne fail
  'b02e e83c00', // '.'; call putc
  '83067a7c08 813e7a7c4010 72d0', // sector += 8; sector < 0x1040: jb next
  'c7067a7c4000 ff06827c', // sector = 64; pass++
  'b04b e82000 ebbf', // 'K'; call putc; jmp next
  'bf0080 b90008 a17a7c 3306827c c3', // pattern: di = 0x8000; cx = 2048; ax = sector ^ pass; ret
  'be727c cd13 7201 c3', // disk: si = packet; int 13h; jc fail; ret
  'b021 e80300 f4 ebfd', // fail: '!'; call putc; hlt for ever
  '52 baf803 ee 5a c3', // putc: push dx; out 0x3f8, al; pop dx; ret
  '10 00 0800 0080 0000', // packet: 8 sectors, 0000:8000,
  '4000000000000000', // sector 64
  '0000', // pass
]

function bootSector(): Buffer {
  const sector = Buffer.alloc(512)
  Buffer.from(bootCode.join('').replaceAll(' ', ''), 'hex').copy(sector)
  sector.writeUInt16LE(0xaa55, 510)
  return sector
}

test('a guest writes and reads back while each of the other daemons is killed and returns', async (t) => {
  t.timeout(8 * 60_000)
  const cluster = await TestCluster.start({ nodes: 3 })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'machine', '64M'])
  await cluster.dog(['vdi', 'write', 'machine', '0', '512'], 0, { input: bootSector() })

  const drive = `if=virtio,format=raw,file=${await cluster.elsewhere('machine', 0)}`
  const hardware = ['-nodefaults', '-m', '64M', '-display', 'none', '-serial', 'stdio', '-boot', 'c']
  const guest = spawn('qemu-system-x86_64', [...hardware, '-drive', drive], { stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => guest.kill('SIGKILL'))
  let said = ''
  for (const stream of [guest.stdout, guest.stderr]) {
    stream.on('data', (text: Buffer) => {
      said += text.toString('latin1')
    })
  }
  const dots = () => said.split('.').length - 1
  const reached = (count: number) =>
    until(`the guest to write ${count} blocks, it said ${JSON.stringify(said.slice(-200))}`, 120_000, () => {
      if (guest.exitCode !== null) throw new Error(`QEMU ended with ${guest.exitCode}: ${said}`)
      return dots() >= count || said.includes('!')
    })

  await reached(100)
  for (const victim of [1, 2]) {
    await cluster.killNode(victim)
    await reached(dots() + 200)
    await cluster.startNode(victim)
    await cluster.healthy()
  }
  await reached(Math.max(blocksPerPass, dots() + 1) + 100)
  t.false(said.includes('!'), 'the guest read what it had not written')
  guest.kill()
  await ended(guest)
  const written = dots()
  t.log(`${written} blocks written and read back by the guest`)

  await cluster.elsewhere('machine', 1)
  const range = [String(firstSector * 512), String(blocksPerPass * blockBytes)]
  const { bytes } = await cluster.dog(['vdi', 'read', 'machine', ...range], 1)
  t.is(bytes.length, blocksPerPass * blockBytes)
  const pass = Math.floor(written / blocksPerPass)
  const wrong: string[] = []
  for (let block = 0; block < blocksPerPass; block++) {
    const sector = firstSector + block * blockSectors
    const ahead = block - (written % blocksPerPass)
    // What the guest was at when it was stopped may be of this pass or the last one.
    const passes = ahead < 0 ? [pass] : ahead > 1 ? [pass - 1] : [pass - 1, pass]
    for (let at = 0; at < blockBytes; at += 2) {
      const found = bytes.readUInt16LE(block * blockBytes + at)
      if (!passes.some((one) => found === (sector ^ one))) wrong.push(`block ${block} at ${at}: ${found ^ sector}`)
    }
  }
  t.deepEqual(wrong.slice(0, 10), [], `pass ${pass}`)
  await cluster.dog(['vdi', 'check', 'machine'])
  t.deepEqual((await surveyReplicas(cluster.stores, 3)).problems, [])
})
