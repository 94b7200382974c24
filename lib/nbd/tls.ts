/** TLS with X.509 certificates, in a directory laid out as QEMU and libvirt have it (ca-cert.pem, server-cert.pem, ...). */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createServer, type Server, type TlsOptions } from 'node:tls'
import { SheepError } from '../errors.js'

export interface TlsSettings {
  directory: string
  /** Clients must show a certificate that the CA signed */
  verifyPeer: boolean
}

/** How long a client may take over the TLS handshake. */
const HANDSHAKE_MS_MAX = 10_000

/** A server for one connection. The files are read each time, so that renewed certificates need no restart. SheepError: invalid. */
export function tlsServer(settings: TlsSettings): Server {
  const read = (name: string): Buffer => {
    const path = join(settings.directory, name)
    try {
      return readFileSync(path)
    } catch (error) {
      throw new SheepError(
        'invalid',
        `TLS needs ${path}: ${(error as Error).message}`,
        'make ca-cert.pem, server-cert.pem and server-key.pem there, as for QEMU',
      )
    }
  }
  const options: TlsOptions = {
    cert: read('server-cert.pem'),
    key: read('server-key.pem'),
    minVersion: 'TLSv1.2',
    requestCert: settings.verifyPeer,
    rejectUnauthorized: settings.verifyPeer,
    handshakeTimeout: HANDSHAKE_MS_MAX,
  }
  if (settings.verifyPeer) options.ca = read('ca-cert.pem')
  try {
    return createServer(options)
  } catch (error) {
    throw new SheepError(
      'invalid',
      `the certificates in ${settings.directory} do not work: ${(error as Error).message}`,
    )
  }
}
