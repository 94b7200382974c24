import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { bashCompletion } from '../../../packaging/completion.js'

/** What bash offers behind these words, the last of which is being typed; `dog` prints two volumes. */
function offered(...words: string[]): string[] {
  const directory = mkdtempSync(join(tmpdir(), 'completion-'))
  try {
    writeFileSync(join(directory, 'dog.bash'), bashCompletion())
    writeFileSync(join(directory, 'dog'), '#!/bin/sh\nprintf "= disk 1 0\\ns disk 1 0\\n= data 2 0\\n"\n', {
      mode: 0o755,
    })
    const script = `source "${directory}/dog.bash"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _dog; printf '%s\\n' "\${COMPREPLY[@]}"`
    const { stdout } = spawnSync('bash', ['-c', script, 'bash', ...words], {
      encoding: 'utf8',
      env: { PATH: `${directory}:${process.env.PATH}` },
    })
    return stdout.split('\n').filter((line) => line !== '')
  } finally {
    rmSync(directory, { recursive: true })
  }
}

test('commands and their commands', (t) => {
  t.true(['vdi', 'node', 'cluster'].every((word) => offered('dog', '').includes(word)))
  t.deepEqual(offered('dog', 'vdi', 'cre'), ['create'])
  t.true(offered('dog', 'node', 'md', '').includes('unplug'))
})

test('options when one is begun, and not before', (t) => {
  t.true(offered('dog', 'vdi', 'create', '--').includes('--copies'))
  t.false(offered('dog', 'vdi', '').some((word) => word.startsWith('-')))
})

test("volumes where one is wanted, behind dog's own options as well", (t) => {
  t.deepEqual(offered('dog', 'vdi', 'snapshot', ''), ['data', 'disk'])
  t.deepEqual(offered('dog', '-p', '7001', 'vdi', 'delete', 'di'), ['disk'])
  t.deepEqual(offered('dog', 'vdi', 'create', ''), [])
})
