import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { Latency } from '../../../lib/gateway/latency.js'
import { DEFINITIONS } from '../../../lib/metrics/definitions.js'
import { type MetricsPlace, startMetrics } from '../../../lib/metrics/server.js'
import { FakeServices } from '../../support/fake-services.js'

const page = join(import.meta.dirname, '..', '..', '..', '..', 'docs', 'monitoring.md')

interface Answer {
  status: number
  type: string
  text: string
}

function ask(socketPath: string, path: string, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, path, method }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (part: string) => {
        text += part
      })
      const type = response.headers['content-type'] ?? ''
      response.on('end', () => resolve({ status: response.statusCode as number, type, text }))
    })
    asked.on('error', reject)
    asked.end()
  })
}

async function served(run: (socket: string, latency: Latency) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'metrics-'))
  const latency = new Latency()
  const place: MetricsPlace = { socket: join(directory, 'metrics.sock'), group: null }
  const server = await startMetrics(place, new FakeServices(), latency)
  try {
    await run(place.socket, latency)
  } finally {
    await server.close()
    await rm(directory, { recursive: true })
  }
}

test('what Prometheus reads: types, units in names, this node in numbers', async (t) => {
  await served(async (socket, latency) => {
    latency.observe(0, 0.03)
    latency.observe(0, 0.3)
    latency.observe(1, 1e6)
    const { status, type, text } = await ask(socket, '/metrics')
    t.is(status, 200)
    t.regex(type, /^text\/plain; version=0\.0\.4/)
    for (const line of [
      '# TYPE sheepdog_client_requests_total counter',
      'sheepdog_client_requests_total{operation="read"} 10',
      'sheepdog_client_bytes_total{operation="write"} 2048',
      '# TYPE sheepdog_client_request_duration_seconds histogram',
      'sheepdog_client_request_duration_seconds_bucket{operation="read",le="0.00005"} 1',
      'sheepdog_client_request_duration_seconds_bucket{operation="read",le="0.0005"} 2',
      'sheepdog_client_request_duration_seconds_bucket{operation="write",le="30"} 0',
      'sheepdog_client_request_duration_seconds_bucket{operation="write",le="+Inf"} 1',
      'sheepdog_client_request_duration_seconds_count{operation="read"} 2',
      'sheepdog_client_request_duration_seconds_sum{operation="write"} 1000',
      'sheepdog_cluster_status{status="running"} 1',
      'sheepdog_cluster_quorate 1',
      'sheepdog_store_objects 6400',
      'sheepdog_disk_healthy{path="/srv/store"} 1',
      'process_cpu_seconds_total 61',
    ]) {
      t.true(text.split('\n').includes(line), `${line} is not in\n${text}`)
    }
  })
})

test('names say their unit, counters end in _total, and nothing else does', (t) => {
  for (const { name, type, help } of DEFINITIONS) {
    t.regex(name, /^(?:sheepdog|process)_[a-z_]+$/)
    t.is(name.endsWith('_total'), type === 'counter', name)
    t.true(help.endsWith('.'), name)
  }
  t.is(new Set(DEFINITIONS.map(({ name }) => name)).size, DEFINITIONS.length)
})

test('anything else than GET /metrics', async (t) => {
  await served(async (socket) => {
    t.is((await ask(socket, '/')).status, 404)
    t.is((await ask(socket, '/metrics', 'POST')).status, 405)
    t.is((await ask(socket, '/metrics', 'HEAD')).text, '')
  })
})

test('the documentation lists every metric with its help', (t) => {
  const text = readFileSync(page, 'utf8')
  for (const { name, help } of DEFINITIONS) t.true(text.includes(`| \`${name}\` | ${help} |`), name)
})
