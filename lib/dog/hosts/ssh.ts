/** A host over SSH. Its key must be one that known_hosts has, or that a person has agreed to; who changed its key is refused. */
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { appendFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import ssh2, { type AnyAuthMethod, type Client } from 'ssh2'
import { SheepError } from '../../errors.js'
import { fingerprint, hostWord, judge, keysFor, lineFor, typeOf } from './known-hosts.js'
import { notRoot, type Result, type Shell, tooLate } from './shell.js'

const CONNECT_MS = 15_000
const KEEPALIVE_MS = 5_000
const KEEPALIVES_MISSED_MAX = 6
const DEFAULT_KEYS = ['id_ed25519', 'id_ecdsa', 'id_rsa']

export interface SshOptions {
  user: string
  port: number
  /** Private key file; '' the agent, then the default ones */
  identity: string
  /** Of the user, read and added to; others, read only */
  knownHosts: string
  globalKnownHosts: readonly string[]
  /** Path of the agent's socket; '' none */
  agent: string
  /** Whether a key that nobody knows is this host's: a person says so, or an option. It is added to knownHosts */
  acceptNew: (host: string, type: string, fingerprint: string) => Promise<boolean>
}

export const SSH_FILES = {
  knownHosts: join(homedir(), '.ssh', 'known_hosts'),
  globalKnownHosts: ['/etc/ssh/ssh_known_hosts'],
} as const

export class SshShell implements Shell {
  private become: readonly string[] = []
  private broken: Error | null = null

  private constructor(
    readonly host: string,
    private readonly client: Client,
  ) {
    client.on('error', (error) => {
      this.broken = error
    })
  }

  /** SheepError unreachable, invalid: what failed, and what to do */
  static async connect(host: string, address: string, options: SshOptions): Promise<SshShell> {
    const shell = new SshShell(host, await connected(host, address, options))
    try {
      const { stdout } = await shell.run('id -u', CONNECT_MS)
      if (stdout.trim() === '0') return shell
      shell.become = ['sudo', '-n']
      if ((await shell.run('true', CONNECT_MS)).code !== 0) throw notRoot(host, options.user)
      return shell
    } catch (error) {
      shell.close()
      throw error
    }
  }

  run(script: string, limitMs: number): Promise<Result> {
    return new Promise((resolve, reject) => {
      const gone = (): void => {
        const why = this.broken === null ? '' : `: ${this.broken.message}`
        reject(new SheepError('unreachable', `the connection to ${this.host} broke${why}`, `is ${this.host} up?`))
      }
      this.client.once('close', gone)
      this.client.exec([...this.become, 'sh', '-s'].join(' '), (error, channel) => {
        if (error !== undefined) {
          reject(new SheepError('unreachable', `${this.host} starts no shell: ${error.message}`))
          return
        }
        const result = { code: 0, stdout: '', stderr: '' }
        const timer = setTimeout(() => {
          channel.close()
          reject(tooLate(this.host, limitMs))
        }, limitMs)
        channel.setEncoding('utf8')
        channel.on('data', (text: string) => {
          result.stdout += text
        })
        channel.stderr.setEncoding('utf8').on('data', (text: string) => {
          result.stderr += text
        })
        channel.on('exit', (code: number | null) => {
          result.code = code ?? -1
        })
        channel.on('close', () => {
          clearTimeout(timer)
          this.client.off('close', gone)
          if (this.broken === null) resolve(result)
          else gone()
        })
        channel.end(script)
      })
    })
  }

  close(): void {
    this.client.end()
  }
}

function connected(host: string, address: string, options: SshOptions): Promise<Client> {
  const words = [...new Set([hostWord(host, options.port), hostWord(address, options.port)])]
  const known = [options.knownHosts, ...options.globalKnownHosts].flatMap((path) => keysFor(textOf(path), words))
  const types = new Set(known.map(({ type }) => type))
  const methods = authentication(options)
  return new Promise((resolve, reject) => {
    const client = new ssh2.Client()
    let refusal: SheepError | null = null
    client.once('ready', () => resolve(client))
    client.once('error', (error) => reject(refusal ?? failure(host, error, options, methods.length)))
    client.connect({
      host: address,
      port: options.port,
      username: options.user,
      readyTimeout: CONNECT_MS,
      keepaliveInterval: KEEPALIVE_MS,
      keepaliveCountMax: KEEPALIVES_MISSED_MAX,
      agent: options.agent === '' ? undefined : options.agent,
      authHandler: [{ type: 'none', username: options.user }, ...methods] as AnyAuthMethod[],
      // Of its keys the host is to show one that is known, as ssh(1) asks it to.
      algorithms: { serverHostKey: algorithmsOf(types) },
      hostVerifier: (key: Buffer, verify: (valid: boolean) => void) => {
        verified(host, words[0], key, judge(known, key), options).then(
          () => verify(true),
          (error: SheepError) => {
            refusal = error
            verify(false)
          },
        )
      },
    })
  })
}

/** SheepError: not this host, or nobody knows */
async function verified(
  host: string,
  word: string,
  key: Buffer,
  verdict: ReturnType<typeof judge>,
  { acceptNew, knownHosts }: SshOptions,
): Promise<void> {
  const [type, print] = [typeOf(key), fingerprint(key)]
  if (verdict === 'known') return
  if (verdict === 'changed' || verdict === 'revoked') {
    const what = verdict === 'changed' ? 'is not the one that is known' : 'has been revoked'
    throw new SheepError(
      'invalid',
      `the host key of ${host} ${what}: it shows ${type} ${print}. Either it was installed anew, or this is another host`,
      verdict === 'changed' ? `if you know why: ssh-keygen -R '${word}', then again` : 'find out what this host is',
    )
  }
  if (!(await acceptNew(host, type, print))) {
    throw new SheepError(
      'invalid',
      `the host key of ${host} is not known: ${type} ${print}`,
      `compare it with ssh-keygen -l -f /etc/ssh/ssh_host_*_key.pub there, then say --accept-new-host-keys, or log in once: ssh ${host}`,
    )
  }
  mkdirSync(dirname(knownHosts), { recursive: true, mode: 0o700 })
  const text = textOf(knownHosts)
  const newline = text === '' || text.endsWith('\n') ? '' : '\n'
  await appendFile(knownHosts, `${newline}${lineFor(word, key)}`, { mode: 0o600 })
}

function authentication({ user, identity, agent }: SshOptions): AnyAuthMethod[] {
  const files =
    identity === '' ? DEFAULT_KEYS.map((name) => join(homedir(), '.ssh', name)).filter(existsSync) : [identity]
  const methods: AnyAuthMethod[] = []
  for (const path of files) {
    let key: Buffer
    try {
      key = readFileSync(path)
    } catch (error) {
      throw new SheepError('not-found', `the key ${path} cannot be read: ${(error as Error).message}`)
    }
    const parsed = ssh2.utils.parseKey(key)
    const isPrivate = !(parsed instanceof Error) && parsed.isPrivateKey()
    if (isPrivate) methods.push({ type: 'publickey', username: user, key })
    else if (identity !== '') {
      const why = parsed instanceof Error ? `: ${parsed.message}` : ''
      const encrypted = /passphrase|encrypted/i.test(why)
      throw new SheepError(
        'invalid',
        `the key ${path} ${encrypted ? 'has a passphrase' : `is no private key${why}`}`,
        encrypted ? `let the agent have it: ssh-add ${path}` : 'name the file without .pub',
      )
    }
  }
  if (agent !== '' && identity === '') methods.unshift({ type: 'agent', username: user, agent })
  return methods
}

function failure(
  host: string,
  error: Error & { level?: string },
  { user, port }: SshOptions,
  methods: number,
): SheepError {
  if (error.level === 'client-authentication') {
    const tried = methods === 0 ? ': there is no agent and no key here' : ''
    return new SheepError(
      'invalid',
      `${host} does not let ${user} in${tried}`,
      `ssh-copy-id ${user}@${host}, or --user and --identity for another one`,
    )
  }
  const where = port === 22 ? host : `${host}, port ${port}`
  return new SheepError('unreachable', `no SSH to ${where}: ${error.message}`, `does ssh ${user}@${host} work?`)
}

/** Those of known keys first, as ssh(1) has them. RSA keys sign with newer algorithms than their type is named after (RFC 8332). */
function algorithmsOf(types: ReadonlySet<string>): ssh2.ServerHostKeyAlgorithm[] {
  const known = HOST_KEY_ALGORITHMS.filter((name) => types.has(name.startsWith('rsa-sha2') ? 'ssh-rsa' : name))
  return [...known, ...HOST_KEY_ALGORITHMS.filter((name) => !known.includes(name))]
}

const HOST_KEY_ALGORITHMS: readonly ssh2.ServerHostKeyAlgorithm[] = [
  ...(['ssh-ed25519', 'ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp384', 'ecdsa-sha2-nistp521'] as const),
  ...(['rsa-sha2-512', 'rsa-sha2-256'] as const),
]

function textOf(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8') : ''
}
