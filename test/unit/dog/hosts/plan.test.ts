import { createHash } from 'node:crypto'
import test from 'ava'
import { newConf, parseConf } from '../../../../lib/dog/hosts/corosync-conf.js'
import type { HostFacts } from '../../../../lib/dog/hosts/facts.js'
import * as plans from '../../../../lib/dog/hosts/plan.js'
import { planList, problemList } from '../../../../lib/dog/hosts/present.js'

const hashOf = (content: Buffer) => createHash('sha256').update(content).digest('hex')
const secrets = { authkey: Buffer.alloc(256, 7), clusterKey: `${'0f'.repeat(32)}\n` }
const stopped = { enabled: false, active: false }
const runs = { enabled: true, active: true }
const installed = { present: true, installable: false }

function host(number: number, change: Partial<HostFacts> = {}): plans.Surveyed {
  const address = `10.0.0.${number}`
  const facts: HostFacts = {
    hostname: `host${number}`,
    system: ['debian'],
    systemd: true,
    packager: 'apt',
    time: 1_800_000_000_000,
    packages: { corosync: installed, sheepdog: installed },
    services: { corosync: stopped, sheepdog: stopped },
    conf: null,
    authkey: '',
    clusterKey: '',
    daemonConf: null,
    addresses: ['127.0.0.1', address],
    free: 2 ** 36,
    storeCluster: '',
    storeAlone: false,
    listeners: { sheep: '', corosync: '' },
    firewall: '',
    resolved: new Map([[`host${number}`, ['127.0.1.1']]]),
    ...change,
  }
  return { host: `host${number}`, address, facts, skewMs: 0 }
}

const wish = { copies: 3, tokenMs: 1000, hashOf }
const nodes = (count: number) =>
  Array.from({ length: count }, (_, at) => ({ name: `host${at + 1}`, address: `10.0.0.${at + 1}`, nodeid: at + 1 }))
const conf = newConf(plans.CLUSTER_NAME, nodes(3))
/** What a host is like that is set up */
const member: Partial<HostFacts> = {
  conf,
  authkey: hashOf(secrets.authkey),
  clusterKey: hashOf(Buffer.from(secrets.clusterKey)),
  daemonConf: 'cluster = corosync\n',
  services: { corosync: runs, sheepdog: runs },
  storeCluster: '1'.repeat(16),
}
const titles = ({ phases }: plans.Plan) => phases.map(({ title }) => title).filter((title) => title !== '')

test('fresh hosts: everything, and in this order', (t) => {
  const hosts = [host(1), host(2), host(3)]
  t.deepEqual(plans.problemsOfInit(hosts), [])
  const plan = plans.planInit(hosts, secrets, wish)
  t.is(
    planList(plan, hosts),
    [
      '   1. write authkey, cluster.key, sheepdog.conf, corosync.conf beside    all hosts',
      '   2. put authkey, cluster.key, sheepdog.conf, corosync.conf into place  all hosts',
      '   3. start corosync                                                     all hosts',
      '   4. wait until all hosts see each other                                all hosts',
      '   5. start sheepdog                                                     all hosts',
      '   6. wait until the daemons answer                                      all hosts',
      '   7. format the cluster with 3 copies of each object                    host1',
      '   8. wait until all serve                                               all hosts',
      '',
    ].join('\n'),
  )
  const shown = JSON.stringify(plan.phases.map(({ title }) => title))
  t.false(shown.includes('0f0f'), 'no secret is shown')
  t.true(
    plan.phases.slice(0, 6).every(({ final }) => final === undefined),
    'all before the format can be taken back',
  )
})

test('done twice it changes nothing; half done it does the rest', (t) => {
  const done = [host(1, member), host(2, member), host(3, member)]
  t.deepEqual(plans.problemsOfInit(done), [])
  t.deepEqual(plans.planInit(done, secrets, wish).phases, [])
  // Cut off after two hosts had their files and one of them its corosync.
  const half = { ...member, services: { corosync: stopped, sheepdog: stopped }, storeCluster: '' }
  const cut = [host(1, { ...half, services: { corosync: runs, sheepdog: stopped } }), host(2, half), host(3)]
  t.deepEqual(plans.problemsOfInit(cut), [])
  const plan = plans.planInit(cut, secrets, wish)
  const on = (title: string) =>
    plan.phases.find((phase) => phase.title.startsWith(title))?.steps.map((step) => step.host)
  t.deepEqual(on('put '), ['host3'])
  t.deepEqual(on('start corosync'), ['host2', 'host3'])
  t.deepEqual(on('start sheepdog'), ['host1', 'host2', 'host3'])
  t.deepEqual(on('format'), ['host1'])
  t.is(plans.keyHolder(cut, 'authkey')?.host, 'host1', 'the key that is there goes on')
})

test('a host that its package has made a cluster of its own, without a volume, begins anew; with one it is refused', (t) => {
  const alone = { storeCluster: '2'.repeat(16), services: { corosync: runs, sheepdog: runs } }
  const hosts = [host(1, { ...alone, storeAlone: true }), host(2)]
  t.deepEqual(plans.problemsOfInit(hosts), [])
  const { phases } = plans.planInit(hosts, secrets, wish)
  const order = titles({ phases, notes: [] })
  const at = order.indexOf('set the empty store of a host alone aside')
  t.true(at > order.findIndex((title) => title.endsWith('into place')) && at < order.indexOf('start sheepdog'))
  t.deepEqual(
    phases.find(({ title }) => title === order[at])?.steps.map((step) => step.host),
    ['host1'],
  )
  t.true(order.some((title) => title.startsWith('format')))
  t.regex(problemList(plans.problemsOfInit([host(1, alone), host(2)])), /host1.*its store has data/)
  t.false(
    titles(
      plans.planInit([host(1, member), host(2, member), host(3, { ...member, storeAlone: true })], secrets, wish),
    ).includes(order[at]),
  )
})

test('the file of a cluster that is there is kept, whoever wrote it', (t) => {
  const own = conf.replace('token: 1000', 'token: 3000')
  const hosts = [host(1, { ...member, conf: own }), host(2, { ...member, conf: own }), host(3)]
  const files = plans.planInit(hosts, secrets, wish).phases.find(({ title }) => title.startsWith('write'))
  t.is(files?.steps.length, 1)
  t.true(files?.steps[0].script.includes(Buffer.from(own).toString('base64')))
})

test('what is missing is installed, with what the host has for it, and taken away again', (t) => {
  const lacking = { corosync: { present: false, installable: true }, sheepdog: installed }
  const hosts = [
    host(1),
    host(2, { packages: lacking }),
    host(3, { packages: lacking, packager: 'dnf', system: ['fedora'] }),
  ]
  const [phase] = plans.planInit(hosts, secrets, wish).phases
  t.is(phase.title, 'install corosync')
  t.deepEqual(
    phase.steps.map(({ host }) => host),
    ['host2', 'host3'],
  )
  t.regex(phase.steps[0].script, /apt-get .*install corosync/)
  t.regex(phase.steps[1].undo, /^dnf .*remove corosync/)
})

test('each obstacle is named with its host and what to do', (t) => {
  const bad = {
    ...host(2, {
      system: ['gentoo'],
      systemd: false,
      packages: { corosync: { present: false, installable: false }, sheepdog: installed },
      free: 2 ** 20,
      listeners: { sheep: 'nginx', corosync: 'named' },
      addresses: ['127.0.0.1', '192.168.0.2'],
      resolved: new Map([['host1', ['10.9.9.9']]]),
    }),
    skewMs: -60_000,
  }
  const text = problemList(plans.problemsOfInit([host(1), bad]))
  for (const part of [
    'its system is gentoo',
    'systemd does not run on it',
    'corosync is neither installed nor in its package lists',
    'its clock is 60 s behind',
    'only 1 MiB are free',
    'nginx listens on TCP port 7000',
    'named uses UDP port 5405',
    'host2 is 10.0.0.2 here, and the host there has 127.0.0.1, 192.168.0.2',
    'host1 is 10.9.9.9 there, and 10.0.0.1 here',
  ]) {
    t.true(text.includes(`host2: ${part}`), `${part}\n${text}`)
  }
  t.is(text.match(/host1:/g), null, 'and nothing of the host that is well')
  const twins = [host(1), { ...host(2, { addresses: ['10.0.0.1'] }), address: '10.0.0.1' }]
  t.true(problemList(plans.problemsOfInit(twins)).includes('host2: it is the same host as host1'))
})

test('hosts of another cluster, or of a part of one, are left alone', (t) => {
  const texts = (hosts: plans.Surveyed[]) =>
    plans.problemsOfInit(hosts).map((one) => `${one.host}: ${one.text} (${one.hint})`)
  const [stranger] = texts([host(1), host(2, member)])
  t.regex(stranger, /^host2: it is in the corosync cluster "sheepdog" with host3/)
  const [more] = texts([host(1, member), host(2, member), host(3, member), host(4)])
  t.regex(more, /host1: .*and host4 not \(dog cluster add host4\)/)
  const [data] = texts([host(1), host(2, { storeCluster: '2'.repeat(16) })])
  t.regex(data, /^host2: its store has data of the cluster 2222222222222222/)
  const [twoClusters] = texts([host(1, member), host(2, { ...member, storeCluster: '2'.repeat(16) }), host(3, member)])
  t.regex(twoClusters, /host1: its store has data of the cluster 1111/)
  const [damaged] = texts([host(1, { conf: 'totem {' }), host(2)])
  t.regex(damaged, /host1: its corosync.conf: totem \{ has no \}/)
})

test('add: members get the new list and are not restarted; the new one gets all', (t) => {
  const members = [host(1, member), host(2, member), host(3, member)]
  const added = [host(4)]
  t.deepEqual(plans.problemsOfAdd(members, added), [])
  const plan = plans.planAdd(members, added, secrets, wish)
  t.deepEqual(titles(plan), [
    'write corosync.conf, authkey, cluster.key, sheepdog.conf beside',
    'put corosync.conf, authkey, cluster.key, sheepdog.conf into place',
    'tell corosync of the new list of hosts',
    'start corosync',
    'wait until all hosts see each other',
    'start sheepdog',
    'wait until all serve',
  ])
  for (const { title, steps } of plan.phases) {
    if (title.startsWith('start'))
      t.deepEqual(
        steps.map((step) => step.host),
        ['host4'],
      )
  }
  const [written] = (
    /printf %s (\S+) \| base64 -d > \/etc\/corosync\/corosync.conf.dog-new/.exec(
      plan.phases.find(({ title }) => title.startsWith('write'))?.steps[0].script ?? '',
    ) ?? ['', '']
  ).slice(1)
  t.deepEqual(
    parseConf(Buffer.from(written, 'base64').toString()).nodes.map(({ nodeid }) => nodeid),
    [1, 2, 3, 4],
  )
  t.true(plan.phases[0].steps[0].undo.includes('corosync-cfgtool -R'), 'taken back, corosync hears of it')
})

test('add: done already, refused where a member is down or the host is elsewhere', (t) => {
  const four = newConf(plans.CLUSTER_NAME, nodes(4))
  const all = [1, 2, 3, 4].map((number) => host(number, { ...member, conf: four }))
  t.deepEqual(plans.planAdd(all.slice(0, 3), all.slice(3), secrets, wish).phases, [])
  const members = [
    host(1, member),
    host(2, { ...member, services: { corosync: runs, sheepdog: stopped } }),
    host(3, member),
  ]
  const elsewhere = host(4, { conf: newConf('other', [{ name: 'host9', address: '10.0.0.9', nodeid: 1 }]) })
  const texts = plans.problemsOfAdd(members, [elsewhere]).map((one) => `${one.host}: ${one.text}`)
  t.deepEqual(texts, ['host2: sheepdog does not run on it', 'host4: it is in another corosync cluster, with host9'])
  const back = host(4, { storeCluster: '1'.repeat(16) })
  const members3 = [host(1, member), host(2, member), host(3, member)]
  t.deepEqual(plans.problemsOfAdd(members3, [back]), [], 'one that was in it before may come back')
})

test('remove: its data first, then it, then the list; by force without waiting', (t) => {
  const [first, second, third] = [host(1, member), host(2, member), host(3, member)]
  const node = nodes(3)[2]
  const plan = plans.planRemove([first, second], { node, surveyed: third, sheepNode: 'a', force: false })
  t.deepEqual(titles(plan), [
    plans.DRAIN,
    'stop its sheepdog',
    'stop its corosync',
    'write corosync.conf beside',
    'put corosync.conf into place',
    'tell corosync of the new list of hosts',
    'wait until the others go on',
    'remove its keys and its corosync.conf; its data stays',
  ])
  t.true(plan.phases[0].steps[0].undo.includes('--cancel'), 'a removal that fails gives it its share back')
  const gone = plans.planRemove([first, second], { node, surveyed: null, sheepNode: 'a', force: true })
  t.false(
    gone.phases.some(({ steps }) => steps.some((step) => step.host === 'host3')),
    'nothing is done on it',
  )
  t.false(titles(gone).includes(plans.DRAIN))
  // Cut off when the others had the new list.
  const two = newConf(plans.CLUSTER_NAME, nodes(2))
  const rest = plans.planRemove([host(1, { ...member, conf: two }), host(2, { ...member, conf: two })], {
    ...{ node, surveyed: third, sheepNode: '', force: false },
  })
  t.deepEqual(titles(rest), [
    'stop its sheepdog',
    'stop its corosync',
    'remove its keys and its corosync.conf; its data stays',
  ])
})

test("the daemon's own configuration keeps all but its engine", (t) => {
  t.is(plans.withEngine(null), 'cluster = corosync\n')
  t.is(
    plans.withEngine('# ours\nstore = /srv/a\ncluster = local\nzone = x'),
    '# ours\nstore = /srv/a\ncluster = corosync\nzone = x',
  )
  t.is(plans.withEngine('store = /srv/a'), 'store = /srv/a\ncluster = corosync\n')
  const same = 'cluster=corosync\n'
  t.is(plans.withEngine(same), same)
})
