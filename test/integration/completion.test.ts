/** Completion by the keys that a person presses, in a real bash and a real zsh, with the volumes of a real daemon. */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { bashCompletion, zshCompletion } from '../../packaging/completion.js'
import { dogProgram, TestCluster } from '../support/cluster.js'
import { ended, until } from '../support/process.js'

const TAB = '\t'
const CLEAR_LINE = '\u0015'
const limit = 20_000

interface Shell {
  /** What the line is when `typed` has been completed so far */
  becomes(typed: string, line: RegExp): Promise<void>
}

/** On a terminal of its own; `setUp` is its configuration. */
async function shell(t: ExecutionContext, command: string, setUp: string, path: string): Promise<Shell> {
  const child = spawn('script', ['-qec', command, '/dev/null'], {
    stdio: ['pipe', 'pipe', 'ignore'],
    env: { PATH: `${path}:${process.env.PATH}`, TERM: 'dumb', HOME: path, COLUMNS: '200' },
  })
  let said = ''
  child.stdout.on('data', (text) => {
    said += text
  })
  t.teardown(async () => {
    child.stdin.end()
    child.kill()
    await ended(child)
  })
  child.stdin.write(`${setUp}; echo re""ady\n`)
  await until(`${command} to be ready`, limit, () => said.includes('ready\r'))
  return {
    async becomes(typed, line) {
      // A loaded machine may take longer for dog's answer than completion waits: then one presses the key again.
      for (let attempt = 0; ; attempt++) {
        said = ''
        child.stdin.write(typed)
        try {
          await until(`${JSON.stringify(typed)} in ${command}`, limit / 4, () => line.test(said))
          break
        } catch (error) {
          if (attempt === 7) throw new Error(`${(error as Error).message}: ${JSON.stringify(said)}`)
        } finally {
          child.stdin.write(CLEAR_LINE)
        }
      }
      t.pass()
    },
  }
}

async function volumes(t: ExecutionContext): Promise<{ port: number; path: string }> {
  const path = mkdtempSync(join(tmpdir(), 'completion-'))
  t.teardown(() => rmSync(path, { recursive: true }))
  const cluster = await TestCluster.start({ nodes: 1 })
  t.teardown(() => cluster.stop())
  for (const name of ['mailserver', 'web1']) await cluster.dog(['vdi', 'create', name, '16M'])
  writeFileSync(join(path, 'dog'), `#!/bin/sh\nexec ${process.execPath} ${dogProgram} "$@"\n`, { mode: 0o755 })
  mkdirSync(join(path, 'zsh'))
  writeFileSync(join(path, 'dog.bash'), bashCompletion())
  writeFileSync(join(path, 'zsh', '_dog'), zshCompletion())
  return { port: cluster.nodes[0].port, path }
}

async function completes({ becomes }: Shell, port: number): Promise<void> {
  await becomes(`dog clu${TAB}`, /dog cluster /)
  await becomes(`dog vdi snap${TAB}`, /dog vdi snapshot /)
  await becomes(`dog node md unp${TAB}`, /dog node md unplug /)
  await becomes(`dog vdi create --cop${TAB}`, /dog vdi create --copies /)
  await becomes(`dog -p ${port} vdi delete mai${TAB}`, /vdi delete mailserver /)
  await becomes(`dog --port=${port} vdi snapshot we${TAB}`, /vdi snapshot web1 /)
}

test('bash', async (t) => {
  const { port, path } = await volumes(t)
  await completes(await shell(t, 'bash --norc --noprofile -i', `source ${path}/dog.bash`, path), port)
})

test('zsh', async (t) => {
  const { port, path } = await volumes(t)
  const setUp = `fpath=(${path}/zsh $fpath); autoload -Uz compinit; compinit -u -D`
  await completes(await shell(t, 'zsh -f -i', setUp, path), port)
})
