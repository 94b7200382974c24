/** One run of dog: which daemon it talks to, how it prints, and the one connection it makes. */
import {
  ControlClient,
  DEFAULT_CLIENT_OPTIONS,
  type ProgressCallback,
  type RemoteVolume,
  type Target,
} from '../control/client.js'
import type { Verb, VerbAnswer, VerbArguments } from '../control/verbs.js'
import { SheepError } from '../errors.js'
import { CLUSTER_KEY_PATH, readClusterKey } from '../host/cluster-key.js'
import { ProgressBar } from './progress-bar.js'
import { type Column, formatRaw, formatTable } from './table.js'

export interface SessionOptions {
  target: Target
  /** people: aligned tables; raw: lines for scripts; json */
  format: 'people' | 'raw' | 'json'
  /** For the whole run; 0 none */
  timeoutMs: number
  /** The cluster's key, for daemons of other hosts; null: the usual file, when this user may read it */
  keyFile: string | null
}

export class Session {
  private client: ControlClient | null = null
  private bar: ProgressBar | null = null

  constructor(readonly options: SessionOptions) {
    if (options.timeoutMs > 0) setTimeout(() => this.timeOut(), options.timeoutMs).unref()
  }

  get forPeople(): boolean {
    return this.options.format === 'people'
  }

  /** `title`: what a progress line says is being done. */
  async call<V extends Verb>(verb: V, given: VerbArguments<V>, title = 'waiting'): Promise<VerbAnswer<V>> {
    const client = await this.connected()
    return this.withProgress(title, (progress) => client.call(verb, given, progress))
  }

  async openVolume(name: string, snapshot: string, readOnly: boolean): Promise<RemoteVolume> {
    const client = await this.connected()
    return this.withProgress('opening', (progress) => client.openVolume(name, snapshot, readOnly, progress))
  }

  async withProgress<T>(title: string, run: (progress: ProgressCallback) => Promise<T>): Promise<T> {
    const bar = new ProgressBar(title, process.stderr)
    this.bar = bar
    try {
      return await run((report) => bar.update(report))
    } finally {
      bar.end()
      this.bar = null
    }
  }

  /** `answer` as it is for --json, `rows` as a table else. */
  print<Row>(answer: unknown, columns: readonly Column<Row>[], rows: readonly Row[]): void {
    if (this.options.format === 'json') this.write(`${JSON.stringify(answer, null, 2)}\n`)
    else if (this.options.format === 'raw') this.write(formatRaw(columns, rows))
    else this.write(formatTable(columns, rows))
  }

  /** The outcome of a change: a sentence for people, `raw` for scripts ('' nothing), the answer for --json. */
  report(answer: unknown, sentence: string, raw = ''): void {
    if (this.options.format === 'json') this.write(`${JSON.stringify(answer, null, 2)}\n`)
    else if (this.options.format === 'raw') this.write(raw === '' ? '' : `${raw}\n`)
    else this.write(`${sentence}\n`)
  }

  write(text: string): void {
    if (text !== '') process.stdout.write(text)
  }

  /** The progress line is taken away: to be called before anything is printed on the way out. */
  close(): void {
    this.bar?.end()
    this.client?.close()
    this.client = null
  }

  private async connected(): Promise<ControlClient> {
    this.client ??= await ControlClient.connect(this.options.target, {
      ...DEFAULT_CLIENT_OPTIONS,
      key: () => keyOf(this.options.keyFile),
    })
    return this.client
  }

  private timeOut(): void {
    this.close()
    const seconds = this.options.timeoutMs / 1000
    printError(
      new SheepError(
        'timeout',
        `not done after ${seconds} s`,
        'give it more with --timeout, or look at dog cluster info',
      ),
    )
    process.exit(new SheepError('timeout', '').exitCode)
  }
}

/** SheepError when a file was named and holds none. */
function keyOf(path: string | null): Buffer | null {
  if (path !== null) return readClusterKey(path)
  try {
    return readClusterKey(CLUSTER_KEY_PATH)
  } catch (error) {
    // The daemon decides whether it goes without, and says what is missing.
    if (error instanceof SheepError && (error.code === 'not-found' || error.code === 'system')) return null
    throw error
  }
}

export function printError(error: SheepError): void {
  const hint = error.hint === '' ? '' : `  ${error.hint}\n`
  process.stderr.write(`dog: ${error.message}\n${hint}`)
}
