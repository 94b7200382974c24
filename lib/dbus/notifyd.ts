/**
 * corosync-notifyd, where it runs: it tells on the system bus which hosts corosync has gained and lost (corosync-notifyd(8); signals of
 * interface org.corosync, which it sends from a connection without that name). Anybody can send a signal: only root's are believed.
 */
import type { Bus } from './bus.js'
import type { Incoming } from './codec.js'
import type { FromBus } from './messages.js'

const FACE = 'org.corosync'
/** Senders that are known; connections come and go with each restart of it */
const SENDERS_MAX = 32
/** Signals whose sender is being looked up */
const LOOKUPS_MAX = 32

export class Notifyd {
  /** Connection -> it is root's */
  private readonly senders = new Map<string, boolean>()
  private lookups = 0

  constructor(private readonly post: (message: FromBus) => void) {}

  listen(bus: Bus): void {
    this.senders.clear()
    const rule = `type='signal',interface='${FACE}',member='NodeStateChange'`
    bus.match(rule).catch((error: Error) => {
      this.post({ type: 'log', level: 'info', message: `corosync-notifyd will not be heard: ${error.message}` })
    })
  }

  signalled(bus: Bus, message: Incoming): void {
    if (message.interface !== FACE || message.member !== 'NodeStateChange' || message.signature !== 'suss') return
    const known = this.senders.get(message.sender)
    if (known !== undefined) {
      if (known) this.tell(message)
      return
    }
    if (this.lookups >= LOOKUPS_MAX) return
    this.lookups++
    bus
      .userOf(message.sender)
      .then((user) => {
        if (this.senders.size >= SENDERS_MAX) this.senders.clear()
        this.senders.set(message.sender, user === 0)
        if (user === 0) this.tell(message)
      })
      // A sender that has gone cannot be told from a stranger.
      .catch(() => {})
      .finally(() => {
        this.lookups--
      })
  }

  /** Node name, node id, address, state */
  private tell({ body }: Incoming): void {
    const [name, , address, state] = body
    this.post({ type: 'host', name: String(name), address: String(address), state: String(state) })
  }
}
