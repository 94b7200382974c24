/** Volumes as files: a real mount, served by real daemons, and the programs that people use on files. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import { release } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type ClusterOptions, sheepProgram, TestCluster } from '../support/cluster.js'
import { exercise } from '../support/file-exerciser.js'
import { must, type Outcome, run, until } from '../support/process.js'

const MIB = 1 << 20

interface Served {
  cluster: TestCluster
  at: (name: string, index?: number) => string
  sh: (script: string, index?: number) => Promise<string>
}

async function serve(t: ExecutionContext, options: Partial<ClusterOptions> = {}): Promise<Served> {
  const directory = fs.mkdtempSync('/var/tmp/sheep-volumes-')
  const place = (index: number) => join(directory, `mnt${index}`)
  const optionsOf = (index: number) => ['--volumes', place(index)]
  const cluster = await TestCluster.start({ nodes: 1, directory, sheepOptions: ['-n'], optionsOf, ...options })
  t.teardown(async () => {
    await Promise.all(cluster.nodes.map(({ index }) => cluster.killNode(index, 'SIGTERM')))
    for (const { index } of cluster.nodes) await run('umount', ['-l', place(index)])
    await cluster.stop()
  })
  return {
    cluster,
    at: (name, index = 0) => join(place(index), name),
    sh: async (script, index = 0) => {
      const outcome = await must('bash', ['-e', '-o', 'pipefail', '-c', `cd ${place(index)}\n${script}`])
      return outcome.stdout
    },
  }
}

function isMounted(place: string): boolean {
  return fs.readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${place} `)
}

test.serial('create, list, read, write, resize, rename, unlink; and the same volumes in dog', async (t) => {
  const { cluster, sh } = await serve(t)
  t.is(await sh('ls'), '')
  await sh('truncate -s 100M a; echo hello > b; echo world >> b')
  t.is(await sh('cat b; stat -c "%s %n" *'), 'hello\nworld\n104857600 a\n12 b\n')
  const { vdis } = await cluster.json<{ vdis: { name: string; size: number }[] }>(['vdi', 'list'])
  t.deepEqual(
    vdis.map(({ name, size }) => [name, size]),
    [
      ['a', 100 * MIB],
      ['b', 512],
    ],
  )
  await cluster.dog(['vdi', 'create', 'c', '8M'])
  t.is(await sh('stat -c %s c'), `${8 * MIB}\n`)
  await sh('mv a moved; rm b; truncate -s 5000 c; truncate -s 9000 c')
  t.is(await sh('stat -c "%s %n" *'), '9000 c\n104857600 moved\n')
  const refused = await run('bash', ['-c', `cd ${join(cluster.directory, 'mnt0')}; mkdir d; ln c e; touch 'x@'`])
  t.regex(refused.stderr, /mkdir.*Operation not permitted\n.*ln.*Operation not permitted\n.*touch.*Invalid argument/)
  t.is(await sh(`touch ${'n'.repeat(255)}; ls | tail -1 | wc -c`), '256\n')
})

test.serial(
  'owner, mode, times and extended attributes are the cluster’s: another host sees them, a restart keeps them',
  async (t) => {
    const { cluster, sh, at } = await serve(t, { nodes: 2, copies: 2 })
    await sh('truncate -s 1M a; chown 64055:108 a; chmod 640 a; touch -d "2020-02-02 UTC" a')
    await sh('setfattr -n security.selinux -v system_u:object_r:svirt_image_t:s0:c1,c2 a; setfattr -n user.x -v 1 a')
    const seen = async (index: number) =>
      sh('stat -c "%u:%g %a %Y" a; getfattr --only-values -n security.selinux a; getfattr -m - a | sort', index)
    const first = await seen(0)
    t.regex(first, /^64055:108 640 1580601600\nsystem_u:object_r:svirt_image_t:s0:c1,c2/)
    t.is(await seen(1), first)
    await cluster.killNode(0, 'SIGTERM')
    t.false(isMounted(at('').replace(/\/$/, '')))
    await cluster.startNode(0)
    t.is(await seen(0), first)
    await sh('setfattr -x user.x a')
    t.notRegex(await sh('getfattr -m - a', 1), /user\.x/)
    const other = await run('setpriv', ['--reuid=1000', '--clear-groups', 'cat', at('a')])
    t.regex(other.stderr, /Permission denied/)
  },
)

test.serial('sparse copies, holes, allocation, direct I/O', async (t) => {
  const { cluster, sh } = await serve(t)
  const source = join(cluster.directory, 'source')
  fs.writeFileSync(source, randomBytes(20 * MIB))
  await sh(`truncate -s 64M a; dd if=${source} of=a bs=1M seek=8 conv=notrunc status=none`)
  t.is(await sh(`cmp -i 8M:0 -n ${20 * MIB} a ${source} && echo same`), 'same\n')
  await sh('cp --sparse=always a b; cp a c; cp --reflink=auto a d; cmp a b; cmp a c; cmp a d')
  t.is(await sh('sync a b; stat -c %b a b'), '40960\n40960\n')
  await sh('fallocate -p -o 8M -l 8M a')
  t.is(await sh('stat -c "%b %s" a'), `${(12 * MIB) / 512} ${64 * MIB}\n`)
  await sh('fallocate -l 80M a; fallocate -z -o 16M -l 4M a; fallocate -n -o 80M -l 4M a')
  t.is(await sh('stat -c "%s" a; head -c 20M a | tr -d "\\0" | wc -c'), `${80 * MIB}\n0\n`)
  await sh(
    `dd if=${source} of=e bs=1M oflag=direct status=none; dd if=e bs=1M iflag=direct status=none | cmp - ${source}`,
  )
  await sh(`dd if=${source} of=f bs=4000 status=none; cmp f ${source}; cat f >> f2; cmp f2 ${source}`)
})

test.serial('capacity is the cluster’s: what its disks have together, by the number of copies', async (t) => {
  for (const copies of [1, 2]) {
    const { cluster, at } = await serve(t, { nodes: 2, copies })
    const disk = fs.statfsSync(cluster.stores[0])
    const shown = fs.statfsSync(at(''))
    const ratio = (shown.blocks * shown.bsize) / (disk.blocks * disk.bsize)
    t.true(Math.abs(ratio - 2 / copies) < 0.01, `two disks, ${copies} copies: ${ratio} times what one disk has`)
    t.true(shown.bavail > 0 && shown.bavail < shown.blocks)
    await cluster.killNode(1, 'SIGTERM')
    await cluster.killNode(0, 'SIGTERM')
  }
})

test.serial(
  'libvirt’s copying: pieces of st_blksize are large, and room is reserved without writing zeros',
  async (t) => {
    const { cluster, sh } = await serve(t)
    await sh('truncate -s 32M a')
    t.is(await sh('stat -c %o a'), `${MIB}\n`)
    const state = async (): Promise<unknown> => {
      const { vdis } = await cluster.json<{ vdis: { used: number }[] }>(['vdi', 'list', 'a'])
      return { used: vdis[0].used, zeros: await sh('tr -d "\\0" < a | wc -c') }
    }
    t.deepEqual(await state(), { used: 0, zeros: '0\n' })
    await sh('fallocate -l 32M a')
    t.deepEqual(await state(), { used: 32 * MIB, zeros: '0\n' })
    await sh('fallocate -p -o 0 -l 32M a')
    t.deepEqual(await state(), { used: 0, zeros: '0\n' })
  },
)

test.serial('snapshots are files too: made by creating one, read-only, renamed, removed', async (t) => {
  const { cluster, sh, at } = await serve(t)
  await sh(
    'head -c 3000000 /dev/urandom > a; cp a /var/tmp/fuse-$$; touch a@one; cmp a@one /var/tmp/fuse-$$; echo new > a',
  )
  t.is(await sh('stat -c "%s %A" a@one a'), '3000000 -r--r--r--\n4 -rw-r--r--\n')
  t.regex((await run('bash', ['-c', `echo x > ${at('a@one')}`])).stderr, /Read-only file system/)
  await cluster.dog(['vdi', 'snapshot', '-s', 'two', 'a'])
  t.is(await sh('ls; cat a@two'), 'a\na@one\na@two\nnew\n')
  await sh('mv a@two a@three; rm a@one')
  t.is(await sh('ls'), 'a\na@three\n')
  await sh('mv a b')
  t.is(await sh('ls; rm b@three b; ls'), 'b\nb@three\n')
})

test.serial('cp of a snapshot is a clone: whole objects are shared, and each side keeps its own', async (t) => {
  const { cluster, sh } = await serve(t)
  await sh('head -c 41000000 /dev/urandom > a; touch a@one; cp a@one b; cmp a@one b')
  const { vdis } = await cluster.json<{ vdis: { name: string; used: number; clone: boolean }[] }>(['vdi', 'list', 'b'])
  t.like(vdis[0], { used: 0, clone: true })
  await sh(
    'echo changed | dd of=b bs=1 seek=5000000 conv=notrunc status=none; cmp a a@one; head -c 5000008 b | tail -c 8',
  )
  t.is(
    await sh('(cmp a@one b || true) | wc -l; rm a@one a; head -c 5000000 b | wc -c; stat -c %s b'),
    '1\n5000000\n41000000\n',
  )
})

/** What libvirt's vol-clone does: reads of 1 MiB, writes of st_blksize where there is anything but zeros, fsync. */
const VOL_CLONE = `
import os, sys
source = os.open(sys.argv[1], os.O_RDONLY)
target = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
size = os.fstat(source).st_size
os.ftruncate(target, size)
piece = os.fstat(target).st_blksize
at = 0
while at < size:
    block = os.read(source, 1 << 20)
    for part in range(0, len(block), piece):
        bytes = block[part:part + piece]
        if bytes.count(0) != len(bytes):
            os.pwrite(target, bytes, at + part)
    at += len(block)
os.fdatasync(target)
os.close(source)
os.fsync(target)
os.close(target)
`

test.serial('a copy made by reading and writing shares what it copied, and only that', async (t) => {
  const { cluster, sh, at } = await serve(t)
  const used = async (name: string): Promise<unknown> => {
    const { vdis } = await cluster.json<{ vdis: { used: number; clone: boolean }[] }>(['vdi', 'list', name])
    return { used: vdis[0].used, clone: vdis[0].clone }
  }
  const shared = { used: 0, clone: true }
  await sh(`truncate -s 250M a
    for i in 0 3 10 60 190; do dd if=/dev/urandom of=a bs=1M count=5 seek=$i conv=notrunc status=none; done
    head -c 45M /dev/urandom > small; touch a@one small@one`)
  await must('python3', ['-c', VOL_CLONE, at('a@one'), at('cloned')])
  await until(
    'the copy to be shared',
    10_000,
    async () => JSON.stringify(await used('cloned')) === JSON.stringify(shared),
  )
  t.is(await sh('cmp a@one cloned && echo same'), 'same\n')
  for (const [name, copy] of Object.entries({
    converted: 'qemu-img convert -f raw -O raw small@one converted',
    outOfOrder: 'qemu-img convert -W -m 8 -f raw -O raw small@one outOfOrder',
    read: 'cat small@one > read',
    pieces: 'dd if=small@one of=pieces bs=300000 status=none',
    direct: 'dd if=small@one of=direct bs=4M iflag=direct oflag=direct status=none',
  })) {
    await sh(`${copy}; cmp small@one ${name}`)
    await until(`${name} to be shared`, 10_000, async () => JSON.stringify(await used(name)) === JSON.stringify(shared))
  }
  // What differs is the copy's own: 8 MiB that lie in 3 objects. What is written later is nobody else's.
  await sh('(head -c 10M small@one; head -c 8M /dev/urandom; tail -c +18874369 small@one) > mixed')
  const mixed = JSON.stringify({ used: 12 * MIB, clone: true })
  await until('the rest of a copy to be shared', 10_000, async () => JSON.stringify(await used('mixed')) === mixed)
  await sh('echo other | dd of=read bs=1 seek=40000000 conv=notrunc status=none; cmp small small@one')
  await sh('rm small@one small')
  t.is(await sh('cmp -n 40000000 read pieces; head -c 40000005 read | tail -c 5'), 'other')
})

test.serial('a file that is open here is busy for another host’s writer, and may be looked at', async (t) => {
  const { sh, at } = await serve(t, { nodes: 2, copies: 2 })
  await sh('head -c 1M /dev/urandom > a; cp a b')
  const writer = fs.openSync(at('a'), 'r+')
  t.throws(() => fs.openSync(at('a', 1), 'r+'), { code: 'EBUSY' })
  t.is(await sh('cmp a b && echo same', 1), 'same\n')
  t.is((await run('rm', [at('a', 1)])).code, 1)
  fs.writeSync(writer, 'changed', 0)
  t.is(await sh('head -c 7 a', 1), 'changed')
  fs.closeSync(writer)
  await sh('echo mine > a; cat a', 1)
  t.is(await sh('cat a'), 'mine\n')
})

test.serial('what another host does is seen here within seconds, also of what was looked at before', async (t) => {
  const { cluster, sh } = await serve(t, { nodes: 2, copies: 2 })
  const look = 'stat -c "%n %s %a" *; cat a*'
  const shows = async (expected: string): Promise<void> => {
    const begun = performance.now()
    let seen = ''
    while (seen !== expected && performance.now() - begun < 5_000) seen = await sh(look, 1)
    t.is(seen, expected)
  }
  await sh('printf first > a; chmod 600 a')
  await shows('a 5 600\nfirst')
  await sh('printf "second one" > a')
  await shows('a 10 600\nsecond one')
  await sh('truncate -s 6 a; chmod 644 a')
  await shows('a 6 644\nsecond')
  await sh('printf " more" >> a')
  await shows('a 11 644\nsecond more')
  await sh('touch a@one; printf other | dd of=a conv=notrunc status=none')
  await shows('a 11 644\na@one 11 444\notherd moresecond more')
  await cluster.dog(['vdi', 'rollback', '-s', 'one', 'a', '--yes'])
  await shows('a 11 644\na@one 11 444\nsecond moresecond more')
  await sh('mv a ab')
  await shows('ab 11 644\nab@one 11 444\nsecond moresecond more')
  await sh('rm ab@one; printf x > a')
  await shows('a 1 644\nab 11 644\nxsecond more')
  await sh('rm a')
  await shows('ab 11 644\nsecond more')
})

test.serial('qcow2 in a file: it grows, it is whole, qemu’s tools agree', async (t) => {
  const { cluster, sh } = await serve(t)
  fs.writeFileSync(join(cluster.directory, 'raw'), randomBytes(9 * MIB + 512))
  await sh(`qemu-img convert -f raw -O qcow2 ../raw a.qcow2; qemu-img compare -f raw -F qcow2 ../raw a.qcow2`)
  await sh('qemu-img check -q a.qcow2; qemu-img create -q -f qcow2 b.qcow2 1G')
  await sh(
    `qemu-io -c 'write -P 7 100M 20M' -c 'discard 104M 4M' -c 'read -P 7 100M 4M' b.qcow2; qemu-img check -q b.qcow2`,
  )
  await sh(
    'qemu-img convert -O raw a.qcow2 c; qemu-img compare -f raw -F raw ../raw c; qemu-img resize -q -f raw c 20M',
  )
  t.is(await sh('stat -c %s c'), `${20 * MIB}\n`)
  const map = JSON.parse(await sh('qemu-img map --output=json -f raw c')) as { start: number; data: boolean }[]
  t.false(map[map.length - 1].data)
})

test.serial('random operations leave what they leave in a plain file', async (t) => {
  const { at } = await serve(t)
  exercise(at('small'), { seed: 20_001, operations: 1500, sizeMax: 300_000, lengthMax: 60_000 })
  exercise(at('large'), { seed: 20_002, operations: 400, sizeMax: 24 * MIB, lengthMax: 3 * MIB })
  exercise(at('direct'), { seed: 20_003, operations: 1000, sizeMax: 300_000, lengthMax: 60_000, direct: true })
  t.pass()
})

test.serial('fio verifies what it wrote: direct, buffered, mapped', async (t) => {
  const { at } = await serve(t)
  const verify = async (name: string, ...words: string[]) =>
    must('fio', [
      ...['--name=v', `--filename=${at(name)}`, '--size=24M', '--rw=randwrite', '--verify=crc32c', '--do_verify=1'],
      ...['--verify_fatal=1', '--verify_state_save=0', '--output=/dev/null', ...words],
    ])
  await verify('direct', '--direct=1', '--bs=4k', '--ioengine=libaio', '--iodepth=16')
  await verify('buffered', '--bs=3k', '--ioengine=psync', '--fsync=64')
  await verify('mapped', '--bs=4k', '--ioengine=mmap')
  t.pass()
})

test.serial('a thousand volumes are listed fast', async (t) => {
  const { sh, at } = await serve(t)
  await sh('for i in $(seq 1000); do : > v$i; done')
  const begun = performance.now()
  t.is(await sh('ls -l | wc -l'), '1001\n')
  const took = performance.now() - begun
  t.log(`ls -l of 1000 volumes: ${took.toFixed(0)} ms`)
  t.true(took < 5000)
  t.is(fs.readdirSync(at('')).length, 1000)
})

test.serial('what a killed daemon left mounted is removed at the next start', async (t) => {
  const { cluster, sh, at } = await serve(t)
  await sh('echo kept > a')
  await cluster.killNode(0)
  t.regex((await run('ls', [at('')])).stderr, /not connected|aborted/)
  await cluster.startNode(0)
  t.is(await sh('cat a'), 'kept\n')
})

test.serial(
  'the next daemon takes over the descriptor: files stay open, what was asked meanwhile is answered',
  async (t) => {
    const { cluster, at } = await serve(t)
    const fd = fs.openSync(at('a'), 'w+')
    fs.writeSync(fd, 'before', 0)
    const kept = descriptorOf(cluster.pid(0), '/dev/fuse')
    t.teardown(() => fs.closeSync(kept))
    await cluster.killNode(0)
    // Asked of nobody: it waits.
    const writer = writeElsewhere(at('a'), 'while away', 10)
    takeOver(cluster, at(''), kept)
    t.is((await writer).code, 0)
    t.regex(cluster.logOf(0), /took over the volumes directory/)
    fs.writeSync(fd, ' and after', 20)
    t.is(fs.fstatSync(fd).size, 30)
    fs.closeSync(fd)
    t.is(fs.readFileSync(at('a'), 'latin1').replaceAll('\0', '.'), 'before....while away and after')
    await until('the lock to go', 5000, async () => {
      const { locks } = await cluster.json<{ locks: unknown[] }>(['vdi', 'lock', 'list'])
      return locks.length === 0
    })
  },
)

/** Linux 6.9 */
const RESENDS = /^(?:6\.(?:9|\d\d)|[7-9]|\d\d)/.test(release())

if (!RESENDS) {
  test(`FUSE_NOTIFY_RESEND CANNOT BE TESTED HERE: Linux ${release()} does not have it`, (t) => t.pass())
} else {
  test.serial('what a killed daemon had taken and not answered is asked of the next one', async (t) => {
    const { cluster, at } = await serve(t, { nodes: 2, copies: 2 })
    const fd = fs.openSync(at('a'), 'w+')
    fs.writeSync(fd, 'before', 0)
    const kept = descriptorOf(cluster.pid(0), '/dev/fuse')
    t.teardown(() => fs.closeSync(kept))
    // A write that is on one of two hosts has been taken, and cannot be answered before the other has it.
    process.kill(cluster.pid(1), 'SIGSTOP')
    const writer = writeElsewhere(at('a'), 'half-way', 10)
    await until('the write to be on one host', 20_000, async () => {
      return (await run('grep', ['-rlaF', 'half-way', cluster.stores[0]])).code === 0
    })
    await cluster.killNode(0)
    process.kill(cluster.pid(1), 'SIGCONT')
    takeOver(cluster, at(''), kept)
    t.is((await writer).code, 0)
    t.is(fs.fstatSync(fd).size, 18)
    fs.closeSync(fd)
    t.is(fs.readFileSync(at('a'), 'latin1').replaceAll('\0', '.'), 'before....half-way')
    await cluster.healthy()
  })
}

/** In another process: this one must not wait. */
function writeElsewhere(path: string, text: string, offset: number): Promise<Outcome> {
  return run('python3', ['-c', `import os;fd=os.open('${path}',os.O_WRONLY);os.pwrite(fd,b'${text}',${offset})`])
}

/** Starts the first node again, with the descriptor that a service manager has kept. */
function takeOver(cluster: TestCluster, place: string, kept: number): void {
  const node = cluster.nodes[0]
  const log = fs.openSync(node.log, 'a')
  const words = [sheepProgram, '-f', '-n', '-c', `local:${join(cluster.directory, 'local')}`, '-p', String(node.port)]
  const command = ['-c', 'LISTEN_PID=$$ exec "$@"', 'sh', process.execPath, ...words, '--volumes', place, node.store]
  node.child = spawn('sh', command, {
    stdio: ['ignore', 'ignore', log, kept],
    env: { ...process.env, LISTEN_FDS: '1', LISTEN_FDNAMES: 'volumes', NOTIFY_SOCKET: '/nonexistent/notify' },
  })
  fs.closeSync(log)
}

/** A copy of another process's descriptor (pidfd_getfd(2), what a service manager gets by FDSTORE). */
function descriptorOf(pid: number, target: string): number {
  const theirs = fs.readdirSync(`/proc/${pid}/fd`).find((fd) => fs.readlinkSync(`/proc/${pid}/fd/${fd}`) === target)
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi')
  const call = koffi.load(null).func('syscall', 'long', ['long', 'long', 'long', 'long'])
  const pidfd = call(434, pid, 0, 0) as number
  const fd = call(438, pidfd, Number(theirs), 0) as number
  fs.closeSync(pidfd)
  if (fd < 0) throw new Error('pidfd_getfd failed')
  return fd
}
