/** What is asked of the process that talks to libvirt (helper.ts), and what it answers: JSON over the channel of a forked Node. */
import type { ErrorCode } from '../errors.js'

export interface PoolInfo {
  xml: string
  active: boolean
  autostart: boolean
  persistent: boolean
}

export interface DomainInfo {
  name: string
  uuid: string
  active: boolean
  /** Has a definition that outlives its run */
  persistent: boolean
}

/** Of which definition: the running machine's, or the one that the next start takes. */
export type Definition = 'live' | 'config'

export interface Quiesced {
  /** File systems that the guest's agent has frozen; 0 none */
  frozen: number
  /** Why the agent froze nothing; '' it did, or nobody asked it to */
  noAgent: string
  /** The virtual CPUs stand still */
  suspended: boolean
}

/** All may fail with what libvirt says. Domains are named by name or UUID. */
export interface LibvirtCalls {
  /** The first of these that opens; its URI */
  open(uris: string[]): string
  /** null: there is none */
  poolInfo(name: string): PoolInfo | null
  poolDefine(xml: string): null
  poolStart(name: string): null
  poolAutostart(name: string): null
  /** false: there is none, or it is not active */
  poolRefresh(name: string): boolean
  domain(name: string): DomainInfo
  /** With what is secret in it: what is left out would be lost by a definition anew */
  domainXml(name: string, of: Definition): string
  attachDevice(name: string, xml: string, to: Definition[]): null
  detachDevice(name: string, xml: string, from: Definition[]): null
  defineDomain(xml: string): null
  /**
   * Lets the machine write nothing until `release`: its file systems are frozen when `freeze` and its agent is there, its CPUs
   * stand still. After `seconds`, or when whoever asked has gone, it is released whatever happens.
   */
  quiesce(name: string, freeze: boolean, seconds: number): Quiesced
  /** false: it was released before, its time was over */
  release(): boolean
}

export type Call = keyof LibvirtCalls

export interface Request {
  id: number
  call: Call
  arguments: unknown[]
}

export interface Answer {
  id: number
  value: unknown
  error: { code: ErrorCode; message: string; hint: string } | null
}
