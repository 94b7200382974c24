/** Shows what is done as a person would type it: the command, what it says, how long it took. */
import { spawn } from 'node:child_process'
import { performance } from 'node:perf_hooks'

const width = Math.min(process.stdout.columns ?? 100, 100)
const onTerminal = process.stdout.isTTY === true
const colored = onTerminal && process.env.NO_COLOR === undefined && process.env.TERM !== 'dumb'

function paint(code: number, text: string): string {
  return colored ? `\x1b[${code}m${text}\x1b[0m` : text
}

export const bold = (text: string) => paint(1, text)
export const dim = (text: string) => paint(2, text)
export const red = (text: string) => paint(31, text)

export function seconds(ms: number): string {
  return ms < 9950 ? `${(ms / 1000).toFixed(2)} s` : `${(ms / 1000).toFixed(1)} s`
}

export class StepFailed extends Error {
  override readonly name = 'StepFailed'
}

/** Milliseconds for any single command of the quickstart; the slowest copies some hundred MiB three times. */
const commandLimit = 300_000

export interface ShowOptions {
  /** The command draws on the terminal itself (a progress bar); without one its output is shown as any other */
  live?: boolean
  /** Lines of output that are noise here */
  hide?: RegExp
}

export class Narrator {
  private step = 0

  constructor(
    private readonly directory: string,
    private readonly env: Record<string, string>,
  ) {}

  title(text: string): void {
    this.step++
    console.log(`\n${bold(`${this.step}. ${text}`)}`)
  }

  /** Runs one shell line in the directory and shows it. @throws StepFailed with what the command said */
  async show(line: string, options: ShowOptions = {}): Promise<string> {
    const live = options.live === true && onTerminal
    const prompt = `  $ ${line}`
    if (onTerminal) process.stdout.write(live ? `${prompt}\n` : prompt)
    const start = performance.now()
    const { code, output } = await this.execute(line, live)
    const time = seconds(performance.now() - start).padStart(Math.max(10, width - prompt.length))
    if (live) console.log(dim(seconds(performance.now() - start).padStart(width)))
    else console.log(`${onTerminal ? '' : prompt}${dim(time)}`)
    const shown = output.split('\n').filter((text) => text.trim() !== '' && !options.hide?.test(text))
    for (const text of shown) console.log(`    ${text.split('\r').pop()}`)
    if (code !== 0) throw new StepFailed(`"${line}" ended with exit code ${code}.`)
    return output
  }

  private execute(line: string, live: boolean): Promise<{ code: number; output: string }> {
    return new Promise((resolve, reject) => {
      const child = spawn('sh', ['-c', line], {
        cwd: this.directory,
        env: { ...process.env, ...this.env },
        stdio: live ? ['ignore', 'inherit', 'inherit'] : ['ignore', 'pipe', 'pipe'],
        timeout: commandLimit,
      })
      let output = ''
      const keep = (text: Buffer) => {
        output += text.toString()
      }
      child.stdout?.on('data', keep)
      child.stderr?.on('data', keep)
      child.on('error', reject)
      // 'exit', not 'close': a daemon that went to the background may hold the pipe's other end.
      child.on('exit', (code, signal) => {
        if (signal !== null) output += `\n(ended by ${signal})`
        setImmediate(() => resolve({ code: code ?? 1, output }))
      })
    })
  }
}
