/** What is done on hosts: scripts for sh as root, each with the one that takes it back. Nothing here runs anything. */
import { PATHS } from './facts.js'

export interface Step {
  host: string
  script: string
  /** Takes back what it did, or the part that it got to; '' nothing to take back */
  undo: string
  limitMs: number
}

export interface Phase {
  /** What people read: "start corosync" */
  title: string
  /** At the same time, each on its host */
  steps: Step[]
  /** Cannot be taken back, nor what came before it: when it or a later one fails, the same command again completes it */
  final?: true
}

export interface File {
  path: string
  mode: string
  /** '' root */
  group: string
  content: Buffer
}

const INSTALL_MS = 600_000
const SHORT_MS = 60_000
/** `systemctl start` returns when a unit is ready: sheepdog.service has 180 s for that */
const SERVICE_MS = 200_000
const WAIT_S = 90

const step = (host: string, script: string, undo = '', limitMs = SHORT_MS): Step => ({ host, script, undo, limitMs })

export function install(host: string, packager: 'apt' | 'dnf' | '', names: readonly string[]): Step {
  const list = names.join(' ')
  return packager === 'dnf'
    ? step(host, `dnf -q -y install ${list}`, `dnf -q -y remove ${list}`, INSTALL_MS)
    : step(
        host,
        `export DEBIAN_FRONTEND=noninteractive; apt-get -q -y -o Dpkg::Use-Pty=0 install ${list}`,
        `export DEBIAN_FRONTEND=noninteractive; apt-get -q -y -o Dpkg::Use-Pty=0 purge ${list}`,
        INSTALL_MS,
      )
}

/** Written beside their places, so that a full disk is noticed while nothing has changed. */
export function stage(host: string, files: readonly File[]): Step {
  const lines = files.map(({ path, mode, group, content }) => {
    const chown = group === '' ? '' : `getent group ${group} >/dev/null && chgrp ${group} ${path}.dog-new\n`
    return (
      `mkdir -p -m 755 ${path.replace(/\/[^/]*$/, '')}\nrm -f ${path}.dog-*\n` +
      `printf %s ${content.toString('base64')} | base64 -d > ${path}.dog-new\n${chown}chmod ${mode} ${path}.dog-new\nsync ${path}.dog-new`
    )
  })
  return step(
    host,
    ['set -e', 'umask 077', ...lines].join('\n'),
    files.map(({ path }) => `rm -f ${path}.dog-new`).join('\n'),
  )
}

/** Renamed to their places; keys come before the configuration that names them. */
export function place(host: string, files: readonly File[]): Step {
  const script = files.map(({ path }) => {
    return `if [ -e ${path} ]; then cp -p ${path} ${path}.dog-old; else : > ${path}.dog-none; fi\nmv ${path}.dog-new ${path}`
  })
  const undo = files.map(({ path }) => {
    return `if [ -e ${path}.dog-old ]; then mv ${path}.dog-old ${path}; elif [ -e ${path}.dog-none ]; then rm -f ${path} ${path}.dog-none; fi`
  })
  return step(host, ['set -e', ...script].join('\n'), undo.join('\n'))
}

/** What `place` kept for taking it back. */
export function forget(host: string, files: readonly File[]): Step {
  return step(host, files.map(({ path }) => `rm -f ${path}.dog-old ${path}.dog-none`).join('\n'))
}

/** Whatever it was before: enabled, and started or, when its configuration is new, started again. */
export function start(
  host: string,
  service: 'corosync' | 'sheepdog',
  was: { enabled: boolean; active: boolean },
): Step {
  const undo = [`systemctl stop ${service}`, ...(was.enabled ? [] : [`systemctl --quiet disable ${service}`])]
  return step(
    host,
    `systemctl daemon-reload && systemctl --quiet enable ${service} && systemctl restart ${service} || { ${lastWords(service)}; exit 1; }`,
    undo.join('\n'),
    SERVICE_MS,
  )
}

/** In a phase before that of the files which it reads: taken back after them, it runs again with those from before. */
export function startAgainWhenTakenBack(host: string, service: 'corosync' | 'sheepdog'): Step {
  return step(host, ':', `systemctl restart ${service}`, SERVICE_MS)
}

/** A store without volumes; it is kept beside, and what has come in its place when it is taken back as well. */
export function setAside(host: string): Step {
  const { store } = PATHS
  const aside = `${store}.alone`
  return step(
    host,
    `set -e; systemctl stop sheepdog\nrm -rf ${aside}; mv ${store} ${aside}`,
    `systemctl stop sheepdog\nif [ -e ${aside} ]; then rm -rf ${store}.unused; [ ! -e ${store} ] || mv ${store} ${store}.unused; mv ${aside} ${store}; fi`,
    SERVICE_MS,
  )
}

export function stop(host: string, service: 'corosync' | 'sheepdog'): Step {
  return step(
    host,
    `systemctl stop ${service} && systemctl --quiet disable ${service}`,
    `systemctl --quiet enable ${service} && systemctl start ${service}`,
    SERVICE_MS,
  )
}

/** All corosyncs of the cluster read their file again. */
export function reload(host: string): Step {
  return step(host, 'corosync-cfgtool -R')
}

export function reloadWhenTakenBack(host: string): Step {
  return step(host, ':', 'corosync-cfgtool -R')
}

export function meet(host: string, nodes: number): Step {
  return step(
    host,
    `${waiting(`corosync-quorumtool -s 2>/dev/null | grep -q '^Nodes: *${nodes}$' && corosync-quorumtool -s | grep -q '^Quorate: *Yes'`)}
echo "corosync has not met all ${nodes} hosts within ${WAIT_S} s; is UDP port 5405 open between them?" >&2
corosync-quorumtool -s 2>&1 | grep '^Nodes:' >&2
exit 1`,
    '',
    SHORT_MS + WAIT_S * 1000,
  )
}

/** Of a formatted cluster: all nodes are in it. Of one that is not: the daemon answers. */
export function serve(host: string, nodes: number): Step {
  return step(
    host,
    `${waiting(`dog cluster info -r 2>/dev/null | ${settled(nodes)}`)}
echo "the daemons have not all met within ${WAIT_S} s; is TCP port 7000 open between the hosts? dog cluster info says:" >&2
dog cluster info >&2
exit 1`,
    '',
    SHORT_MS + WAIT_S * 1000,
  )
}

/** Exit code 0 when `dog cluster info -r` on stdin says: serving, with so many nodes; or waiting for its format. */
function settled(nodes: number): string {
  return `awk 'NR == 1 { s = $1 } NR == 2 { n = split($3, list, ",") } END { exit !(s == "waiting-for-format" || s == "running" && n == ${nodes}) }'`
}

export function format(host: string, copies: number): Step {
  return step(host, `dog cluster format${copies > 0 ? ` -c ${copies}` : ''} 2>&1`, '', SERVICE_MS)
}

export function drain(host: string, node: string): Step {
  return step(host, `dog node drain ${node}`, `dog node drain --cancel ${node}`)
}

/** It has been taken out: what would let it in again goes, its data stays. */
export function leave(host: string): Step {
  const { conf, authkey, clusterKey } = PATHS
  return step(host, `rm -f ${authkey} ${clusterKey}\nif [ -e ${conf} ]; then mv ${conf} ${conf}.removed; fi`)
}

function waiting(condition: string): string {
  return `end=$(($(date +%s) + ${WAIT_S}))
while [ "$(date +%s)" -lt $end ]; do if ${condition}; then exit 0; fi; sleep 0.3; done`
}

function lastWords(service: string): string {
  return `echo "the newest of journalctl -u ${service}:" >&2; journalctl -u ${service} -n 5 -o cat --no-pager >&2`
}
