/** What Prometheus gets of real daemons, and that everything which the dashboard and docs/monitoring.md ask for is among it. */
import { mkdtempSync, readFileSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { CMD_FLUSH, CMD_READ, CMD_WRITE } from '../../lib/nbd/constants.js'
import { TestCluster } from '../support/cluster.js'
import { NbdClient } from '../support/nbd-client.js'
import { until } from '../support/process.js'

const project = join(import.meta.dirname, '..', '..', '..')

function scrape(socketPath: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, path: '/metrics' }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (part: string) => {
        text += part
      })
      response.on('end', () => resolve(text))
    })
    asked.on('error', reject)
    asked.end()
  })
}

/** Of each time series its labels: what Prometheus adds itself, too. */
function exported(text: string): Map<string, Map<string, Set<string>>> {
  const found = new Map<string, Map<string, Set<string>>>()
  for (const [, name, labels = ''] of text.matchAll(/^([a-z_]+)(?:\{(.*)\})? \S+$/gm)) {
    const known = found.get(name) ?? new Map(['job', 'instance'].map((label) => [label, new Set<string>()]))
    found.set(name, known)
    for (const [, label, value] of labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      known.set(label, (known.get(label) ?? new Set()).add(value))
    }
  }
  return found
}

/** What an expression of PromQL asks for that nobody exports. */
function missing(expression: string, series: ReturnType<typeof exported>): string[] {
  const found: string[] = []
  const selectors = [...expression.matchAll(/\b((?:sheepdog|process)_[a-z_]+)(?:\{(.*?)\})?/g)]
  if (selectors.length === 0) found.push('no metric')
  const grouped = [...expression.matchAll(/\bby \((.*?)\)/g)].flatMap(([, labels]) => labels.split(/, */))
  for (const [, name, matchers = ''] of selectors) {
    const labels = series.get(name)
    if (labels === undefined) {
      found.push(name)
      continue
    }
    for (const label of grouped) if (!labels.has(label)) found.push(`${name} by ${label}`)
    for (const [, label, operator, value] of matchers.matchAll(/(\w+)(=~|=|!=|!~)"(.*?)"/g)) {
      const values = labels.get(label)
      const literal = operator === '=' && !value.startsWith('$')
      if (values === undefined || (literal && !values.has(value))) found.push(`${name}{${label}${operator}"${value}"}`)
    }
  }
  return found
}

test('what a dashboard asks for in vain is noticed', (t) => {
  const series = exported('sheepdog_a_total{operation="read",le="1"} 5\nsheepdog_b 1\n')
  t.deepEqual(missing('sum by (operation) (rate(sheepdog_a_total{job="$job"}[5m]))', series), [])
  for (const [expression, reason] of [
    ['sum by (disk) (rate(sheepdog_a_total[5m]))', 'sheepdog_a_total by disk'],
    ['sheepdog_a_total{operation="discard"}', 'sheepdog_a_total{operation="discard"}'],
    ['sheepdog_b{path=~"$path"}', 'sheepdog_b{path=~"$path"}'],
    ['sheepdog_b / sheepdog_c', 'sheepdog_c'],
    ['vector(0)', 'no metric'],
  ] as const) {
    t.deepEqual(missing(expression, series), [reason])
  }
})

test('all that the dashboard and the documentation ask for is what real daemons export', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'monitoring-'))
  const socket = (i: number) => join(directory, `metrics${i}`)
  const cluster = await TestCluster.start({ nodes: 2, directory, optionsOf: (i) => ['--metrics', socket(i)] })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'disk', '16M'])
  const client = await NbdClient.open(cluster.nbdSocket(0), 'disk')
  const calls = [
    () => client.call(CMD_WRITE, 0, 1 << 20, 0, Buffer.alloc(1 << 20, 1)),
    () => client.call(CMD_READ, 0, 1 << 20),
    () => client.call(CMD_FLUSH, 0, 0),
  ]
  for (const call of calls) t.is((await call()).error, 0)
  // Those of volumes are there while they are open.
  let text = ''
  await until('the volume among the metrics', 10_000, async () => {
    text = await scrape(socket(0))
    return /^sheepdog_volume_requests_total\{volume="disk",operation="flush"\} [1-9]/m.test(text)
  })
  t.regex(text, /^sheepdog_volume_bytes_total\{volume="disk",operation="write"\} 1048576$/m)
  t.regex(text, /^sheepdog_client_requests_total\{operation="read"\} [1-9]/m)
  t.regex(text, /^sheepdog_replica_bytes_total\{operation="write"\} [1-9]\d{6,}/m)
  t.regex(text, /^sheepdog_cluster_nodes 2$/m)
  client.destroy()

  const series = exported(text)
  t.true(series.size > 30)
  const { panels, templating } = JSON.parse(readFileSync(join(project, 'packaging/grafana/sheepdog.json'), 'utf8')) as {
    panels: { targets?: { expr: string }[] }[]
    templating: { list: { query: string }[] }
  }
  const queries = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))
  t.true(queries.length > 15)
  const variables = templating.list.map(({ query }) => query).filter((query) => query !== 'prometheus')
  t.true(variables.length > 1)
  for (const query of variables) {
    const [, selector, label] = /^label_values\((.*), (\w+)\)$/.exec(query) ?? []
    t.deepEqual(missing(`sum by (${label}) (${selector})`, series), [], query)
  }
  const page = readFileSync(join(project, 'docs/monitoring.md'), 'utf8')
  const alerts = [...page.slice(page.indexOf('Worth an alert')).matchAll(/^\| `(.*?)`/gm)].map(([, one]) => one)
  t.true(alerts.length > 5)
  for (const query of [...queries, ...alerts]) t.deepEqual(missing(query, series), [], query)
})
