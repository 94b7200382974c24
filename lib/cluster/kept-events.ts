import type { OrderedEvent } from './steps.js'

/** Kept between a newcomer's HELLO and its STATE. More: it asks anew. */
const KEPT_EVENTS_MAX = 100_000

export interface KeptEvent {
  /** Own count of ordered events with this one */
  count: number
  event: OrderedEvent
  quorate: boolean
}

/** What was ordered while this member took no part: the STATE that it is sent may be as of some time ago. */
export class KeptEvents {
  private events: KeptEvent[] = []
  /** Nonce of each own HELLO delivered since the first of `events` -> count then */
  private readonly said = new Map<number, number>()

  keep(event: KeptEvent): void {
    if (this.events.length >= KEPT_EVENTS_MAX) this.forget()
    else this.events.push(event)
  }

  forget(): void {
    this.events = []
    this.said.clear()
  }

  helloDelivered(nonce: number, count: number): void {
    this.said.set(nonce, count)
  }

  /** Count when the own HELLO was delivered; undefined when what came after it is not all kept. */
  countOf(nonce: number): number | undefined {
    return this.said.get(nonce)
  }

  after(count: number): KeptEvent[] {
    return this.events.filter((kept) => kept.count > count)
  }
}
