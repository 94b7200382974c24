/** dog's way to other hosts against OpenSSH's sshd: keys of hosts and users, what a script says, and who is refused. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import anyTest, { type TestFn } from 'ava'
import { type SshOptions, SshShell } from '../../lib/dog/hosts/ssh.js'
import { SheepError } from '../../lib/errors.js'
import { ended, freePorts, must, until } from '../support/process.js'

const test = anyTest as TestFn<{ directory: string; sshd: ChildProcess; port: number; options: SshOptions }>
const program = '/usr/sbin/sshd'
const firstPort = 23_400

function keygen(path: string, ...more: string[]): Promise<unknown> {
  return must('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', path, ...more])
}

async function startSshd(
  directory: string,
  hostKeys: readonly string[],
): Promise<{ sshd: ChildProcess; port: number }> {
  const [port] = await freePorts(1, firstPort + Math.floor(Math.random() * 2000))
  const config = join(directory, 'sshd_config')
  const lines = [
    ...['ListenAddress 127.0.0.1', `Port ${port}`, 'PidFile none', 'UsePAM no', 'StrictModes no'],
    ...['PasswordAuthentication no', 'PermitRootLogin prohibit-password'],
    ...hostKeys.map((path) => `HostKey ${path}`),
    `AuthorizedKeysFile ${directory}/authorized_keys`,
  ]
  writeFileSync(config, `${lines.join('\n')}\n`)
  // Debian's unit makes it.
  if (process.getuid?.() === 0) mkdirSync('/run/sshd', { recursive: true, mode: 0o755 })
  const sshd = spawn(program, ['-D', '-e', '-f', config], { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  sshd.stderr?.on('data', (piece) => {
    said += piece
  })
  await until('sshd to listen', 20_000, () => {
    if (sshd.exitCode !== null) throw new Error(`sshd ended: ${said}`)
    return said.includes('Server listening')
  })
  return { sshd, port }
}

test.beforeEach(async (t) => {
  t.true(existsSync(program), `${program} is missing: packaging/tools/prepare.mjs installs openssh-server`)
  const directory = mkdtempSync(join(tmpdir(), 'dog-ssh-'))
  for (const name of ['host', 'host2', 'user', 'stranger']) await keygen(join(directory, name))
  writeFileSync(join(directory, 'authorized_keys'), readFileSync(join(directory, 'user.pub')))
  const { sshd, port } = await startSshd(directory, [join(directory, 'host')])
  const options: SshOptions = {
    ...{ user: process.env.USER ?? 'root', port, identity: join(directory, 'user'), agent: '' },
    ...{ knownHosts: join(directory, 'ssh', 'known_hosts'), globalKnownHosts: [], acceptNew: async () => false },
  }
  t.context = { directory, sshd, port, options }
})

test.afterEach.always(async (t) => {
  const { directory, sshd } = t.context
  sshd.kill('SIGKILL')
  await ended(sshd)
  rmSync(directory, { recursive: true, force: true })
})

async function refused(options: SshOptions): Promise<SheepError> {
  try {
    const shell = await SshShell.connect('localhost', '127.0.0.1', options)
    shell.close()
  } catch (error) {
    if (error instanceof SheepError) return error
    throw error
  }
  throw new Error('it was let in')
}

const accepting = (options: SshOptions): SshOptions => ({ ...options, acceptNew: async () => true })

test.serial(
  'an unknown host is refused, shown as ssh-keygen shows it; accepted once it is known for good',
  async (t) => {
    const { options, directory, port } = t.context
    const { stdout } = await must('ssh-keygen', ['-l', '-f', join(directory, 'host.pub')])
    const [, print] = stdout.split(' ')
    const error = await refused(options)
    t.is(error.message, `the host key of localhost is not known: ssh-ed25519 ${print}`)
    t.false(existsSync(options.knownHosts))
    const shell = await SshShell.connect('localhost', '127.0.0.1', accepting(options))
    t.deepEqual(await shell.run('echo out; echo err >&2; exit 7', 10_000), {
      code: 7,
      stdout: 'out\n',
      stderr: 'err\n',
    })
    shell.close()
    // ssh itself reads what was added.
    const found = await must('ssh-keygen', ['-F', `[localhost]:${port}`, '-f', options.knownHosts])
    t.regex(found.stdout, /ssh-ed25519/)
    const again = await SshShell.connect('localhost', '127.0.0.1', options)
    again.close()
  },
)

test.serial('hashed known_hosts, and a host that shows another of its keys', async (t) => {
  const { options, directory, sshd } = t.context
  sshd.kill('SIGKILL')
  await ended(sshd)
  // The one that is known is not the one that the server would rather show.
  await must('ssh-keygen', ['-q', '-t', 'ecdsa', '-N', '', '-f', join(directory, 'ecdsa')])
  Object.assign(t.context, await startSshd(directory, [join(directory, 'host'), join(directory, 'ecdsa')]))
  const { port } = t.context
  mkdirSync(join(directory, 'ssh'))
  const [type, key] = readFileSync(join(directory, 'ecdsa.pub'), 'utf8').split(' ')
  writeFileSync(options.knownHosts, `[localhost]:${port} ${type} ${key}\n`)
  await must('ssh-keygen', ['-q', '-H', '-f', options.knownHosts])
  t.notRegex(readFileSync(options.knownHosts, 'utf8'), /localhost/)
  const shell = await SshShell.connect('localhost', '127.0.0.1', { ...options, port })
  t.is((await shell.run('id -u', 10_000)).stdout.trim(), String(process.getuid?.()))
  shell.close()
})

test.serial('a changed host key is refused whatever is accepted', async (t) => {
  const { options, directory, port } = t.context
  mkdirSync(join(directory, 'ssh'))
  writeFileSync(options.knownHosts, `[localhost]:${port} ${readFileSync(join(directory, 'host2.pub'), 'utf8')}`)
  const error = await refused(accepting(options))
  t.regex(error.message, /^the host key of localhost is not the one that is known: it shows ssh-ed25519 SHA256:/)
  t.regex(error.hint, /ssh-keygen -R '\[localhost\]:\d+'/)
})

test.serial('a user whom the host does not know; a key that is none; a key with a passphrase', async (t) => {
  const { options, directory } = t.context
  const stranger = await refused(accepting({ ...options, identity: join(directory, 'stranger') }))
  t.regex(stranger.message, /^localhost does not let \S+ in/)
  const none = await refused(accepting({ ...options, identity: join(directory, 'user.pub') }))
  t.regex(none.message, /no private key/)
  await must('ssh-keygen', ['-q', '-p', '-N', 'secret', '-f', join(directory, 'user')])
  const locked = await refused(accepting(options))
  t.regex(locked.message, /has a passphrase/)
  t.regex(locked.hint, /^let the agent have it: ssh-add/)
})

test.serial('the agent lets in; a large script and answer pass; what takes too long is given up', async (t) => {
  const { options, directory } = t.context
  const socket = join(directory, 'agent')
  const agent = spawn('ssh-agent', ['-D', '-a', socket], { stdio: 'ignore' })
  try {
    await until('the agent', 10_000, () => existsSync(socket))
    await must('ssh-add', ['-q', join(directory, 'user')], { env: { SSH_AUTH_SOCK: socket } })
    const shell = await SshShell.connect(
      'localhost',
      '127.0.0.1',
      accepting({ ...options, identity: '', agent: socket }),
    )
    const text = 'x'.repeat(300_000)
    const { stdout } = await shell.run(`cat <<'END'\n${text}\nEND\n`, 20_000)
    t.is(stdout.length, text.length + 1)
    const late = await t.throwsAsync(shell.run('sleep 60', 300), { instanceOf: SheepError })
    t.is(late?.code, 'timeout')
    shell.close()
  } finally {
    agent.kill()
    await ended(agent)
  }
})

test.serial('a connection that breaks under a script says so', async (t) => {
  const { options, sshd } = t.context
  const shell = await SshShell.connect('localhost', '127.0.0.1', accepting(options))
  const running = shell.run(`echo $PPID; kill -9 $PPID; sleep 5`, 20_000)
  const error = await t.throwsAsync(running, { instanceOf: SheepError })
  t.is(error?.code, 'unreachable')
  t.is(sshd.exitCode, null)
})
