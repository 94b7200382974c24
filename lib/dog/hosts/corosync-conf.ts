/** corosync.conf(5): the one that a new cluster gets, what is read of another, and its list of nodes made longer or shorter. */
import { SheepError } from '../../errors.js'

/** One link: `ring0_addr` */
export interface ConfNode {
  name: string
  address: string
  nodeid: number
}

export interface CorosyncConf {
  clusterName: string
  nodes: ConfNode[]
}

/** A block `name { ... }`, or a line `name: value`; the file itself is a block without a name. */
interface Block {
  name: string
  value: string
  inside: Block[] | null
  /** Of the text, from the line of its name to past its last */
  from: number
  to: number
}

/**
 * Of a silent host, ms: corosync's former default. With its consensus (1.2 times as long) the others go on after little more than
 * twice this.
 */
export const TOKEN_MS = 1_000
/** For each node beyond two, ms. Corosync's 650 would more than double the time for four hosts. */
const TOKEN_COEFFICIENT_MS = 50

export function newConf(clusterName: string, nodes: readonly ConfNode[], tokenMs = TOKEN_MS): string {
  return `# Made by dog cluster init. dog cluster add and remove change the list of nodes.
totem {
    version: 2
    cluster_name: ${clusterName}
    transport: knet
    crypto_cipher: aes256
    crypto_hash: sha256
    token: ${tokenMs}
    token_coefficient: ${TOKEN_COEFFICIENT_MS}
}
quorum {
    provider: corosync_votequorum
${nodes.length === 2 ? TWO_NODE : ''}}
${nodelist(nodes)}logging {
    to_syslog: yes
    timestamp: off
}
`
}

const TWO_NODE = '    two_node: 1\n'

function nodelist(nodes: readonly ConfNode[]): string {
  const blocks = nodes.map(({ name, address, nodeid }) => {
    return `    node {\n        ring0_addr: ${address}\n        nodeid: ${nodeid}\n        name: ${name}\n    }\n`
  })
  return `nodelist {\n${blocks.join('')}}\n`
}

/** SheepError invalid */
export function parseConf(text: string): CorosyncConf {
  const file = parse(text)
  const nodes = all(file, 'nodelist').flatMap((list) => all(list.inside ?? [], 'node'))
  return {
    clusterName: setting(all(file, 'totem')[0]?.inside ?? [], 'cluster_name'),
    nodes: nodes.map(({ inside }) => {
      const address = setting(inside ?? [], 'ring0_addr')
      return {
        address,
        name: setting(inside ?? [], 'name') || address,
        nodeid: Number(setting(inside ?? [], 'nodeid')),
      }
    }),
  }
}

/** The same file with these nodes; `two_node` as their number says, the rest as it was. SheepError invalid */
export function withNodes(text: string, nodes: readonly ConfNode[]): string {
  const lines = text.split('\n')
  const lists = all(parse(text), 'nodelist')
  if (lists.length !== 1) throw new SheepError('invalid', 'corosync.conf has no nodelist, or several', 'make it one')
  lines.splice(lists[0].from, lists[0].to - lists[0].from, ...nodelist(nodes).trimEnd().split('\n'))
  const quorum = all(parse(lines.join('\n')), 'quorum')[0]
  if (quorum === undefined) throw new SheepError('invalid', 'corosync.conf has no quorum section', 'see votequorum(5)')
  const kept = lines.slice(quorum.from, quorum.to).filter((line) => !/^\s*two_node\s*:/.test(line))
  // A quorum device's vote is in the place of it (corosync-qdevice(8)).
  const device = all(quorum.inside ?? [], 'device').length > 0
  if (nodes.length === 2 && !device) kept.splice(-1, 0, TWO_NODE.trimEnd())
  lines.splice(quorum.from, quorum.to - quorum.from, ...kept)
  return lines.join('\n')
}

/** One that no node has, nor had lately: a host that was taken out by force may still call itself so. */
export function freeNodeid(nodes: readonly ConfNode[]): number {
  return Math.max(0, ...nodes.map(({ nodeid }) => nodeid)) + 1
}

function all(blocks: readonly Block[], name: string): Block[] {
  return blocks.filter((block) => block.name === name && block.inside !== null)
}

function setting(blocks: readonly Block[], name: string): string {
  return blocks.find((block) => block.name === name && block.inside === null)?.value ?? ''
}

function parse(text: string): Block[] {
  const file: Block[] = []
  const open: Block[] = []
  for (const [at, raw] of text.split('\n').entries()) {
    const line = raw.trim()
    if (line === '' || line.startsWith('#')) continue
    const into = open.at(-1)?.inside ?? file
    const begin = /^([a-z0-9_.]+)\s*\{$/i.exec(line)
    const value = /^([^:{}]+):\s*(.*)$/.exec(line)
    if (begin !== null) {
      const block = { name: begin[1], value: '', inside: [], from: at, to: at }
      into.push(block)
      open.push(block)
    } else if (line === '}') {
      const block = open.pop()
      if (block === undefined) throw new SheepError('invalid', `corosync.conf, line ${at + 1}: a } too many`)
      block.to = at + 1
    } else if (value !== null) {
      into.push({ name: value[1].trim(), value: value[2].trim(), inside: null, from: at, to: at + 1 })
    } else {
      throw new SheepError('invalid', `corosync.conf, line ${at + 1}, cannot be read: ${line}`)
    }
  }
  if (open.length > 0) throw new SheepError('invalid', `corosync.conf: ${open[0].name} { has no }`)
  return file
}
