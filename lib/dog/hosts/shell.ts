/** Scripts run by sh as root: on this host, or on another over SSH (ssh.ts). */
import { spawn } from 'node:child_process'
import { SheepError } from '../../errors.js'

export interface Result {
  code: number
  stdout: string
  stderr: string
}

export interface Shell {
  readonly host: string
  /** Whatever the exit code. SheepError unreachable, timeout: nobody knows what of it was done */
  run(script: string, limitMs: number): Promise<Result>
  close(): void
}

/** Both say it when a user is neither root nor may become it without a password. */
export function notRoot(host: string, user: string): SheepError {
  return new SheepError(
    'invalid',
    `${user} on ${host} is not root, and sudo wants a password`,
    `log in as root (--user root), or let it: echo '${user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/${user}`,
  )
}

export function tooLate(host: string, limitMs: number): SheepError {
  return new SheepError('timeout', `${host} has not done it within ${Math.round(limitMs / 1000)} s`, `look at ${host}`)
}

export class LocalShell implements Shell {
  constructor(readonly host: string) {}

  /** SheepError invalid: not root, and no way to become it */
  async check(): Promise<void> {
    const { code } = await this.run('true', 10_000)
    if (code !== 0) throw notRoot(this.host, process.env.USER ?? 'you')
  }

  run(script: string, limitMs: number): Promise<Result> {
    const [program, ...words] = process.getuid?.() === 0 ? ['sh', '-s'] : ['sudo', '-n', 'sh', '-s']
    return new Promise((resolve, reject) => {
      const child = spawn(program, words, { stdio: ['pipe', 'pipe', 'pipe'] })
      const result = { code: 0, stdout: '', stderr: '' }
      const timer = setTimeout(() => {
        child.kill('SIGKILL')
        reject(tooLate(this.host, limitMs))
      }, limitMs)
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        result.stdout += text
      })
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        result.stderr += text
      })
      // A shell that ends before it has read all says so by its exit code.
      child.stdin.on('error', () => {})
      child.stdin.end(script)
      child.on('error', (error) => {
        clearTimeout(timer)
        reject(new SheepError('system', `${program} cannot be started here: ${error.message}`))
      })
      child.on('close', (code) => {
        clearTimeout(timer)
        resolve({ ...result, code: code ?? -1 })
      })
    })
  }

  close(): void {}
}
