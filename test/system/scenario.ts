import type { SystemCluster } from './cluster.js'

export interface Scenario {
  name: string
  title: string
  /** Part of npm test */
  short: boolean
  hosts?: number
  run(cluster: SystemCluster): Promise<void>
}
