/** The whole command line of dog as commander knows it. */
import { Command, Option } from 'commander'
import type { Target } from '../control/client.js'
import { SheepError } from '../errors.js'
import { VERSION } from '../host/version.js'
import { parseCount } from './arguments.js'
import { addClusterCommands } from './cluster.js'
import { adder, group, throwUsage } from './command.js'
import { addLibvirtCommands } from './libvirt.js'
import { addNodeCommands } from './node.js'
import { Session } from './session.js'
import { addVdiCommands } from './vdi.js'

const DEFAULT_ADDRESS = '127.0.0.1'
const DEFAULT_PORT = 7000
const TIMEOUT_MAX_S = 7 * 86_400

const DESCRIPTION = `Volumes, nodes and the cluster of Sheepdog, replicated block storage for QEMU/KVM.

Commands:
  dog vdi      create, list, snapshot, clone, rollback, delete, resize, rename,
               tree, read, write, check, object, lock
  dog node     list, info, recovery, stat, drain, kill, md, log
  dog cluster  init, add, remove, info, top, format, shutdown, check, scrub,
               recover
  dog libvirt  disk-xml, attach, detach, convert`

const AFTER = `
Examples:
  dog cluster init host1 host2 host3  set up these hosts, once
  dog cluster format -c 3             daemons that run already, once
  dog vdi create disk 10G             a volume that takes space as it is written
  dog vdi snapshot -s monday disk     freeze it
  dog vdi clone -s monday disk copy   a writable copy, at once
  dog -a 10.0.0.2 node list           ask another daemon

Volumes are used through NBD, e.g. in QEMU: nbd+unix:///disk?socket=STORE/nbd.sock
Each command explains itself: dog vdi create --help

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 exists, 5 cluster not ready,
6 busy or locked, 7 no space`

export type RunSession = (session: Session, action: (session: Session) => Promise<void>) => Promise<void>

/** `run` is called for the command that is chosen. Parsing throws CommanderError or SheepError. */
export function dogProgram(run: RunSession): Command {
  const program = throwUsage(new Command('dog'))
    .description(DESCRIPTION)
    .usage('[options] COMMAND ...')
    .addOption(
      new Option('-a, --address <HOST>', 'daemon to ask')
        .env('SHEEPDOG_ADDRESS')
        .default(DEFAULT_ADDRESS, DEFAULT_ADDRESS),
    )
    .addOption(
      new Option('-p, --port <PORT>', 'its TCP port')
        .env('SHEEPDOG_PORT')
        .default(String(DEFAULT_PORT), String(DEFAULT_PORT)),
    )
    .addOption(
      new Option('--socket <PATH>', 'its Unix socket (STORE/sock), instead of -a and -p').env('SHEEPDOG_SOCKET'),
    )
    .option('--key <FILE>', "the cluster's key, for daemons of other hosts (default: /etc/sheepdog/cluster.key)")
    .option('-r, --raw', 'lines of space-separated fields, sizes in bytes, times in seconds')
    .option('--json', 'JSON: sizes in bytes, times in milliseconds since 1970')
    .option('--timeout <SECONDS>', 'give up after this time (default: wait while the daemon works)')
    .version(VERSION, '-v, --version', 'print the version')
    .helpOption('-h, --help', 'print help')
    .helpCommand(false)
    .configureHelp({ visibleCommands: (command) => (command.parent === null ? [] : command.commands.slice()) })
    .configureOutput({ outputError: () => {} })
    .addHelpText('after', AFTER)
  const add = adder((command, action) => run(new Session(sessionOptions(command)), action))
  addVdiCommands(group(program, 'vdi', 'volumes, snapshots and clones'), add)
  addNodeCommands(group(program, 'node', 'the daemons, one by one'), add)
  addClusterCommands(group(program, 'cluster', 'all daemons together'), add)
  addLibvirtCommands(group(program, 'libvirt', "volumes as disks of libvirt's machines"), add)
  return program
}

interface GlobalOptions {
  address: string
  port: string
  socket?: string
  key?: string
  raw?: true
  json?: true
  timeout?: string
}

function sessionOptions(command: Command): Session['options'] {
  const options = command.optsWithGlobals<GlobalOptions>()
  if (options.raw && options.json) throw new SheepError('invalid', '-r and --json are two formats', 'choose one')
  return {
    target: targetOf(command, options),
    keyFile: options.key ?? null,
    format: options.json ? 'json' : options.raw ? 'raw' : 'people',
    timeoutMs:
      options.timeout === undefined ? 0 : parseCount(options.timeout, 'number of seconds', 1, TIMEOUT_MAX_S) * 1000,
  }
}

/** What is typed wins over the environment; a socket over an address from the same place. Empty is not set. */
function targetOf(command: Command, { socket = '', address, port }: GlobalOptions): Target {
  const typed = (name: string) => command.getOptionValueSourceWithGlobals(name) === 'cli'
  const tcpTyped = typed('address') || typed('port')
  if (typed('socket') && tcpTyped) {
    throw new SheepError('invalid', '--socket and -a or -p name two daemons', 'give one of them')
  }
  if (socket !== '' && !tcpTyped) return { socket }
  return {
    host: address || DEFAULT_ADDRESS,
    port: port === '' ? DEFAULT_PORT : parseCount(port, 'TCP port', 1, 65_535),
  }
}
