import test from 'ava'
import { freeNodeid, newConf, parseConf, withNodes } from '../../../../lib/dog/hosts/corosync-conf.js'
import { SheepError } from '../../../../lib/errors.js'

const nodes = ['10.0.0.1', '10.0.0.2', '10.0.0.3'].map((address, at) => ({
  ...{ name: `host${at + 1}`, address, nodeid: at + 1 },
}))

test('a new one says what it is to say, and is read back', (t) => {
  const conf = newConf('sheepdog', nodes, 1500)
  t.deepEqual(parseConf(conf), { clusterName: 'sheepdog', nodes })
  t.regex(conf, /^ {4}token: 1500$/m)
  t.regex(conf, /^ {4}crypto_cipher: aes256$/m)
  t.notRegex(conf, /two_node/)
  // corosync takes nothing else in a line with a brace.
  for (const line of conf.split('\n')) if (/[{}]/.test(line)) t.regex(line, /^\s*([a-z]+ \{|\})$/)
})

test('two hosts are two_node, and only they', (t) => {
  const two = newConf('sheepdog', nodes.slice(0, 2))
  t.regex(two, /quorum \{\n {4}provider: corosync_votequorum\n {4}two_node: 1\n\}/)
  const three = withNodes(two, nodes)
  t.notRegex(three, /two_node/)
  t.is(withNodes(three, nodes.slice(0, 2)), two, 'and back')
  const device = '    device {\n        model: net\n        net {\n            host: witness\n        }\n    }\n'
  const voted = three.replace('provider: corosync_votequorum\n', (line) => `${line}${device}`)
  t.true(withNodes(voted, nodes.slice(0, 2)).includes(device))
  t.notRegex(withNodes(voted, nodes.slice(0, 2)), /two_node/, 'a quorum device instead')
})

test('of a file that somebody wrote only the list of nodes changes', (t) => {
  const own = `# ours
totem {
  version: 2
  cluster_name: shop
  interface {
    linknumber: 0
    mcastport: 5410
  }
}
nodelist {
  # first
  node { 
    ring0_addr: 10.0.0.1
    nodeid: 7
  }
}

quorum {
  provider: corosync_votequorum
}
`
  t.deepEqual(parseConf(own), { clusterName: 'shop', nodes: [{ name: '10.0.0.1', address: '10.0.0.1', nodeid: 7 }] })
  const changed = withNodes(own, nodes)
  t.deepEqual(parseConf(changed).nodes, nodes)
  t.true(changed.startsWith(own.slice(0, own.indexOf('nodelist'))))
  t.true(changed.endsWith(own.slice(own.indexOf('\nquorum'))))
})

test('what is no corosync.conf is refused, with its line', (t) => {
  const refused = (text: string) => t.throws(() => parseConf(text), { instanceOf: SheepError }).message
  t.regex(refused('totem {\n'), /totem \{ has no \}/)
  t.regex(refused('}\n'), /line 1: a \} too many/)
  t.regex(refused('totem {\n  nonsense\n}\n'), /line 2, cannot be read: nonsense/)
  t.throws(() => withNodes('quorum {\n}\n', nodes), { message: /no nodelist/ })
})

test('a node id is never given again while a higher one is in use', (t) => {
  t.is(freeNodeid([]), 1)
  t.is(freeNodeid([nodes[2]]), 4)
})
