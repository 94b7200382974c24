/** `npm run test:system -- [NAME...]`: the scenarios with these names, or all, on real hosts. */
import { SystemCluster } from './cluster.js'
import { obstacle } from './ground.js'
import { scenarios } from './scenarios.js'

const say = (text: string): void => console.log(text)
const names = process.argv.slice(2)
const unknown = names.filter((name) => !scenarios.some((scenario) => scenario.name === name))
if (unknown.length > 0) {
  console.error(`no such scenario: ${unknown.join(', ')}; there are`)
  for (const { name, title } of scenarios) console.error(`  ${name.padEnd(18)} ${title}`)
  process.exit(2)
}
const why = obstacle()
if (why !== '') {
  console.error(`test:system cannot run here: ${why}`)
  process.exit(1)
}
let cluster: SystemCluster | null = null
let failed = 0
for (const scenario of scenarios.filter((one) => names.length === 0 || names.includes(one.name))) {
  const { name, title, run } = scenario
  if (cluster === null || !cluster.suits(scenario)) {
    cluster?.close()
    cluster = await SystemCluster.of(scenario, say)
  }
  const start = performance.now()
  say(`${name}: ${title}`)
  try {
    await run(cluster)
    say(`  passed in ${((performance.now() - start) / 1000).toFixed(1)} s`)
  } catch (error) {
    failed++
    say(`  FAILED: ${(error as Error).stack}\n${await cluster.keepJournals(name)}`)
    break
  }
}
cluster?.close()
process.exitCode = failed === 0 ? 0 : 1
