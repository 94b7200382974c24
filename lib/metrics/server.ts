/**
 * Metrics as Prometheus reads them: GET /metrics over HTTP on a Unix socket or on loopback. Whoever may connect may read them, so
 * there is no other address.
 */
import { chmodSync, chownSync, lstatSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { type Metric, type MetricType, Registry } from 'prom-client'
import type { ControlServices } from '../control/services.js'
import { asSheepError, SheepError } from '../errors.js'
import type { Latency } from '../gateway/latency.js'
import { DEFINITIONS } from './definitions.js'
import { type Facts, readFacts } from './facts.js'

const CONNECTIONS_MAX = 32
const REQUEST_MS = 10_000

export type MetricsPlace = { socket: string; group: number | null } | { host: string; port: number }

export interface MetricsServer {
  close(): Promise<void>
}

/** One text for each scrape; those that come meanwhile get the same. */
export class Exposition {
  private readonly registry = new Registry()
  private facts: Facts | null = null
  private running: Promise<string> | null = null

  constructor(private readonly read: () => Promise<Facts>) {
    for (const { name, help, type, samples } of DEFINITIONS) {
      const get = async () => ({ name, help, type, aggregator: 'sum', values: samples(this.facts as Facts) })
      // prom-client's own metrics are written to by requests; these are read when somebody asks.
      this.registry.registerMetric({ name, help, type: type as unknown as MetricType, get } as unknown as Metric)
    }
  }

  get contentType(): string {
    return this.registry.contentType
  }

  text(): Promise<string> {
    this.running ??= this.make().finally(() => {
      this.running = null
    })
    return this.running
  }

  private async make(): Promise<string> {
    this.facts = await this.read()
    return this.registry.metrics()
  }
}

/** SheepError system: the place cannot be listened on. */
export async function startMetrics(
  place: MetricsPlace,
  services: ControlServices,
  latency: Latency,
): Promise<MetricsServer> {
  const exposition = new Exposition(() => readFacts(services, latency))
  const server = createServer((request, response) => {
    const path = (request.url ?? '').replace(/\?.*/, '')
    if (path !== '/metrics' || (request.method !== 'GET' && request.method !== 'HEAD')) {
      response.writeHead(path === '/metrics' ? 405 : 404, { 'content-type': 'text/plain' })
      response.end('GET /metrics\n')
      return
    }
    exposition.text().then(
      (text) => {
        response.writeHead(200, { 'content-type': exposition.contentType })
        response.end(request.method === 'HEAD' ? '' : text)
      },
      (error: unknown) => {
        response.writeHead(500, { 'content-type': 'text/plain' })
        response.end(`${asSheepError(error).message}\n`)
      },
    )
  })
  server.maxConnections = CONNECTIONS_MAX
  server.requestTimeout = REQUEST_MS
  server.headersTimeout = REQUEST_MS
  await listen(server, place)
  return {
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

async function listen(server: Server, place: MetricsPlace): Promise<void> {
  const where = 'socket' in place ? place.socket : `${place.host}:${place.port}`
  try {
    if ('socket' in place) removeSocket(place.socket)
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen('socket' in place ? place.socket : place, () => resolve())
    })
    if ('socket' in place) {
      chmodSync(place.socket, 0o660)
      if (place.group !== null) chownSync(place.socket, -1, place.group)
    }
  } catch (error) {
    const { message } = error as Error
    throw new SheepError('system', `metrics cannot be served on ${where}: ${message}`, 'give --metrics another place')
  }
}

/** One that a daemon has left; anything else there is somebody's. */
function removeSocket(path: string): void {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket()) rmSync(path)
}
