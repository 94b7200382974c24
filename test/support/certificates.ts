/** Certificates for TLS tests, made by openssl(1), laid out as QEMU and libnbd read them. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { must } from './process.js'

/**
 * In `directory`: a CA, and keys and certificates for `server` (valid for localhost and 127.0.0.1) and `client`, named
 * ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem, client-key.pem.
 */
export async function makeCertificates(directory: string): Promise<void> {
  mkdirSync(directory, { recursive: true })
  const openssl = (...args: string[]) => must('openssl', args, { cwd: directory })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  await openssl(
    'req',
    '-x509',
    ...key,
    '-days',
    '2',
    '-subj',
    '/CN=test CA',
    '-keyout',
    'ca-key.pem',
    '-out',
    'ca-cert.pem',
  )
  for (const who of ['server', 'client']) {
    const extensions = `extendedKeyUsage=${who}Auth\nsubjectAltName=DNS:localhost,IP:127.0.0.1\nkeyUsage=digitalSignature\n`
    writeFileSync(join(directory, `${who}.ext`), extensions)
    await openssl('req', ...key, '-subj', `/CN=${who}`, '-keyout', `${who}-key.pem`, '-out', `${who}.csr`)
    const signed = ['-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial', '-extfile', `${who}.ext`]
    await openssl('x509', '-req', '-days', '2', ...signed, '-in', `${who}.csr`, '-out', `${who}-cert.pem`)
  }
}
