/** What is asked of a host before anything is changed, in one script, and its answer as a value. */
import { SheepError } from '../../errors.js'

export const PATHS = {
  conf: '/etc/corosync/corosync.conf',
  authkey: '/etc/corosync/authkey',
  clusterKey: '/etc/sheepdog/cluster.key',
  daemonConf: '/etc/sheepdog/sheepdog.conf',
  store: '/var/lib/sheepdog',
} as const

/** corosync(8), knet's default */
export const COROSYNC_PORT = 5405
export const SHEEP_PORT = 7000

export interface ServiceFacts {
  enabled: boolean
  active: boolean
}

export interface PackageFacts {
  present: boolean
  installable: boolean
}

export interface HostFacts {
  hostname: string
  /** ID and ID_LIKE of os-release(5) */
  system: string[]
  systemd: boolean
  packager: 'apt' | 'dnf' | ''
  /** Its clock, ms since the Unix epoch */
  time: number
  packages: { corosync: PackageFacts; sheepdog: PackageFacts }
  services: { corosync: ServiceFacts; sheepdog: ServiceFacts }
  /** null: there is none, or the one that came with the package and is nobody's */
  conf: string | null
  /** SHA-256 of files, hex; '' none */
  authkey: string
  clusterKey: string
  daemonConf: string | null
  addresses: string[]
  /** Bytes free where the store is or will be */
  free: number
  /** Cluster that the store belongs to; '' there is no store, or it is new */
  storeCluster: string
  /** It is the one that a package's daemon makes of a host alone, and no volume was made since: no loss when it goes */
  storeAlone: boolean
  /** Who listens on 7000/tcp and 5405/udp, by protocol: what ss(8) calls them; '' nobody */
  listeners: { sheep: string; corosync: string }
  firewall: string
  /** Names that were asked for: the addresses that this host knows */
  resolved: Map<string, string[]>
}

/** For sh; `names` are hosts as given, checked by `parseHost`. */
export function probe(names: readonly string[]): string {
  return `export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
say() { printf '%s %s\\n' "$1" "$2"; }
text() { [ -f "$2" ] && say "$1" "$(base64 -w0 < "$2")"; }
hash() { [ -f "$2" ] && say "$1" "$(sha256sum < "$2" | cut -d' ' -f1)"; }
say hostname "$(uname -n)"
say system "$(. /etc/os-release 2>/dev/null; echo "$ID $ID_LIKE")"
[ -d /run/systemd/system ] && say systemd yes
if command -v apt-get >/dev/null; then say packager apt; elif command -v dnf >/dev/null; then say packager dnf; fi
for name in corosync sheepdog; do
  program=$name; [ $name = sheepdog ] && program=sheep
  if command -v $program >/dev/null; then say present $name
  elif command -v apt-get >/dev/null; then
    apt-cache policy $name 2>/dev/null | grep -q 'Candidate: [^(]' && say installable $name
  elif command -v dnf >/dev/null; then dnf -q list --available $name >/dev/null 2>&1 && say installable $name
  fi
  systemctl is-enabled --quiet $name 2>/dev/null && say enabled $name
  systemctl is-active --quiet $name 2>/dev/null && say active $name
done
text conf ${PATHS.conf}
if [ -f ${PATHS.conf} ] && command -v dpkg-query >/dev/null; then
  sum=$(md5sum < ${PATHS.conf} | cut -d' ' -f1)
  dpkg-query -W -f '\${Conffiles}\\n' corosync 2>/dev/null | grep -q "${PATHS.conf} $sum" && say pristine yes
fi
hash authkey ${PATHS.authkey}
hash clusterKey ${PATHS.clusterKey}
text daemonConf ${PATHS.daemonConf}
say addresses "$(ip -o address show 2>/dev/null | sed -n 's/.* inet6\\? \\([^/ ]*\\).*/\\1/p' | tr '\\n' ' ')"
store=$(sed -n 's/^ *store *= *\\([^,]*\\).*/\\1/p' ${PATHS.daemonConf} 2>/dev/null | head -n1); store=\${store:-${PATHS.store}}
say storeCluster "$(sed -n 's/.*"clusterId": *"\\([0-9a-f]*\\)".*/\\1/p' "$store/state" 2>/dev/null | head -n1)"
if [ "$store" = ${PATHS.store} ] && [ -z "$(find "$store/obj" -type f 2>/dev/null | head -n1)" ] &&
  ! grep -q '^ *(store|cluster) *=' ${PATHS.daemonConf} 2>/dev/null; then say storeAlone yes; fi
place=$store; while [ ! -d "$place" ]; do place=$(dirname "$place"); done
say free "$(df -PB1 "$place" | awk 'NR == 2 { print $4 }')"
listener() { ss -Hln$1 "sport = :$2" -p 2>/dev/null | sed -n 's/.*users:(("\\([^"]*\\)".*/\\1/p' | head -n1; }
say sheepListener "$(listener t ${SHEEP_PORT})"
say corosyncListener "$(listener u ${COROSYNC_PORT})"
for name in firewalld ufw; do systemctl is-active --quiet $name 2>/dev/null && say firewall $name; done
for name in ${names.join(' ')}; do
  say resolved "$name $(getent ahosts "$name" | cut -d' ' -f1 | sort -u | tr '\\n' ' ')"
done
say time "$(date +%s%N)"
`
}

/** SheepError invalid: the host said something else */
export function parseFacts(text: string): HostFacts {
  const said = new Map<string, string[]>()
  for (const line of text.split('\n')) {
    const at = line.indexOf(' ')
    if (at < 0) continue
    const key = line.slice(0, at)
    said.set(key, [...(said.get(key) ?? []), line.slice(at + 1).trim()])
  }
  const one = (key: string): string => said.get(key)?.[0] ?? ''
  const has = (key: string, value: string): boolean => said.get(key)?.includes(value) ?? false
  const decoded = (key: string): string | null => {
    return said.has(key) ? Buffer.from(one(key), 'base64').toString() : null
  }
  const time = Number(one('time')) / 1e6
  if (one('hostname') === '' || !(time > 0)) {
    throw new SheepError(
      'invalid',
      'it answers something else than what it was asked',
      'does its shell print at login?',
    )
  }
  const packageOf = (name: string): PackageFacts => {
    return { present: has('present', name), installable: has('installable', name) }
  }
  const service = (name: string): ServiceFacts => ({ enabled: has('enabled', name), active: has('active', name) })
  const packager = one('packager')
  return {
    hostname: one('hostname'),
    system: words(one('system')),
    systemd: one('systemd') === 'yes',
    packager: packager === 'apt' || packager === 'dnf' ? packager : '',
    time,
    packages: { corosync: packageOf('corosync'), sheepdog: packageOf('sheepdog') },
    services: { corosync: service('corosync'), sheepdog: service('sheepdog') },
    conf: one('pristine') === 'yes' ? null : decoded('conf'),
    authkey: one('authkey'),
    clusterKey: one('clusterKey'),
    daemonConf: decoded('daemonConf'),
    addresses: words(one('addresses')),
    free: Number(one('free')),
    storeCluster: one('storeCluster'),
    storeAlone: one('storeCluster') !== '' && one('storeAlone') === 'yes',
    listeners: { sheep: one('sheepListener'), corosync: one('corosyncListener') },
    firewall: one('firewall'),
    resolved: new Map(
      (said.get('resolved') ?? []).map((line) => {
        const [name, ...addresses] = words(line)
        return [name, addresses]
      }),
    ),
  }
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '')
}
