/** Every command of README.md is run as it is printed: here what needs no second host, in test/system/readme-scenario.ts the rest. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { must } from '../support/process.js'
import { adaptedCommands, commandsOf, readmeCommands, readmePictures } from '../support/readme.js'

const root = join(import.meta.dirname, '..', '..', '..')

/** Section of README.md -> the test that runs all commands in it. */
const runBy: Record<string, string> = {
  'Two commands': 'test/integration/readme.test.ts',
  'A tour': 'test/integration/readme.test.ts',
  'On one host': 'test/system/readme-scenario.ts',
  'On three hosts': 'test/system/readme-scenario.ts',
  'What an administrator does': 'test/system/readme-scenario.ts',
  'Monitoring, security, limits': 'test/system/readme-scenario.ts',
}

/** What takes hours in full, with its shortest options */
const adapted: Record<string, string> = {
  // This runs within it.
  'npm test': 'true',
  'npm run bench': 'npm run bench -- --quick --rounds=1 --seconds=0.2 --size=64',
  'npm run simulate': 'npm run simulate -- --seeds 2',
  'npm run fuzz': 'npm run fuzz -- --parser nbd --inputs 200',
  'npm run torture': 'npm run torture -- --kind kill --rounds 1',
}

test('each command of the README is in a section that a test runs', (t) => {
  for (const { section, text } of readmeCommands()) {
    const path = runBy[section]
    t.not(path, undefined, `nothing runs \`${text}\` of "${section}": see runBy`)
    t.true(
      readFileSync(join(root, path), 'utf8').includes(`commandsOf('${section}')`),
      `${path} runs none of "${section}"`,
    )
  }
  const picture = readmePictures()
  t.is(picture.length, 10, `a block has what is no command:\n${picture.join('\n')}`)
})

test('commands are found in blocks and in sentences', (t) => {
  const markdown =
    '## One\n\n    dog node list   # who is there\n    +---+\n\nWith `dog vdi list` or `disk`.\n## Two\n`npm run x`\n'
  t.deepEqual(readmeCommands(markdown), [
    { section: 'One', text: 'dog node list', block: true },
    { section: 'One', text: 'dog vdi list', block: false },
    { section: 'Two', text: 'npm run x', block: false },
  ])
  t.deepEqual(readmePictures(markdown), ['    +---+'])
  t.deepEqual(adaptedCommands(readmeCommands(markdown), { 'npm run x': 'true' }), [
    'dog node list',
    'dog vdi list',
    'true',
  ])
  t.throws(() => adaptedCommands(readmeCommands(markdown), { 'npm run y': 'true' }), {
    message: /no longer says: npm run y/,
  })
})

/**
 * As root of a host of its own: its network, its processes, /run and /var/tmp are nobody else's, and what is written into this tree is gone at
 * the end. The machine that is started has an empty disk and runs for some seconds.
 */
function script(commands: readonly string[], directory: string): string {
  const overlay = ['upper', 'work'].map((name) => `${name}dir=${join(directory, name)}`).join()
  return [
    'set -e; shopt -s expand_aliases',
    'ip link set lo up',
    `mount -t overlay overlay -o lowerdir=${root},${overlay} ${root}`,
    `mount --bind ${join(directory, 'tmp')} /var/tmp; mount -t tmpfs tmpfs /run`,
    `cd ${root}`,
    'qemu-img create -q -f qcow2 debian.qcow2 64M',
    'qemu-system-x86_64() { timeout 5 /usr/bin/qemu-system-x86_64 -display none "$@" || [ $? = 124 ]; }',
    ...commands.flatMap((command) => [`echo '+' ${JSON.stringify(command).replaceAll('$', '\\$')}`, command]),
    'echo all was run',
  ].join('\n')
}

async function runAlone(commands: readonly string[], limit: number): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'sheep-readme-'))
  try {
    for (const name of ['upper', 'work', 'tmp']) mkdirSync(join(directory, name))
    writeFileSync(join(directory, 'script'), script(commands, directory))
    const alone = ['--mount', '--net', '--pid', '--fork', '--mount-proc', '--kill-child']
    return (await must('unshare', [...alone, 'bash', join(directory, 'script')], { limit })).stdout
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

if (process.getuid?.() !== 0) {
  test("the README's commands CANNOT RUN HERE: they need root", (t) => {
    t.log('NOT TESTED: the tour and the npm scripts of README.md')
    t.pass()
  })
} else {
  test.serial("the README's tour", async (t) => {
    t.timeout(180_000)
    const tour = commandsOf('A tour').filter(({ block }) => block)
    const said = await runAlone(
      tour.map(({ text }) => text),
      150_000,
    )
    t.regex(said, /copy/)
    t.regex(said, /monday/)
    t.regex(said, /all was run\n$/)
  })

  test.serial("the README's scripts and helps", async (t) => {
    t.timeout(300_000)
    const scripts = commandsOf('A tour').filter(({ block }) => !block)
    const programs = commandsOf('A tour').filter(({ text }) => text.startsWith('alias '))
    const commands = adaptedCommands([...programs, ...commandsOf('Two commands'), ...scripts], adapted)
    t.regex(await runAlone(commands, 280_000), /all was run\n$/)
  })
}
