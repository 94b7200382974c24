import { createHmac } from 'node:crypto'
import test from 'ava'
import { fingerprint, hostWord, judge, keysFor, lineFor, typeOf } from '../../../../lib/dog/hosts/known-hosts.js'

/** As a key is on the wire: its type's length and name, then what is the key's own. */
function key(type: string, secret: string): Buffer {
  const name = Buffer.alloc(4 + type.length)
  name.writeUInt32BE(type.length)
  name.write(type, 4)
  return Buffer.concat([name, Buffer.from(secret)])
}

const mine = key('ssh-ed25519', 'mine')
const other = key('ssh-ed25519', 'other')
const line = (patterns: string, which: Buffer) => `${patterns} ${typeOf(which)} ${which.toString('base64')} comment\n`

function hashed(word: string): string {
  const salt = Buffer.from('0123456789abcdef0123')
  return `|1|${salt.toString('base64')}|${createHmac('sha1', salt).update(word).digest('base64')}`
}

const verdict = (text: string, words: string[], shown = mine) => judge(keysFor(text, words), shown)

test('plain, several, hashed, and with a port', (t) => {
  t.is(verdict(line('host2', mine), ['host2']), 'known')
  t.is(verdict(line('a,host2,10.0.0.2', mine), ['host2']), 'known')
  t.is(verdict(line(hashed('host2'), mine), ['host2']), 'known')
  t.is(verdict(line(hashed('host3'), mine), ['host2']), 'unknown')
  t.is(hostWord('Host2', 22), 'host2')
  t.is(verdict(line('[host2]:2222', mine), [hostWord('host2', 2222)]), 'known')
  t.is(verdict(line('host2', mine), [hostWord('host2', 2222)]), 'unknown', 'another port may be another host')
})

test('patterns: what they match, and what they leave out', (t) => {
  t.is(verdict(line('*.example.com', mine), ['a.example.com']), 'known')
  t.is(verdict(line('host?', mine), ['host12']), 'unknown')
  t.is(verdict(line('*.example.com,!b.example.com', mine), ['b.example.com']), 'unknown')
  t.is(verdict(line('10.0.0.*', mine), ['10x0.0.1']), 'unknown', 'a dot is a dot')
})

test('another key than the known one is changed, also of another type, and by any of its names', (t) => {
  t.is(verdict(line('host2', other), ['host2']), 'changed')
  t.is(verdict(line('10.0.0.2', other), ['host2', '10.0.0.2']), 'changed')
  t.is(verdict(line('host2', key('ssh-rsa', 'x')), ['host2']), 'changed')
  t.is(verdict(line('host2', other) + line('host2', mine), ['host2']), 'known', 'one of its keys is enough')
})

test('a revoked key is never good', (t) => {
  t.is(verdict(`@revoked ${line('*', mine)}${line('host2', mine)}`, ['host2']), 'revoked')
  t.is(verdict(`@revoked ${line('*', other)}`, ['host2']), 'unknown', 'it says nothing of other keys')
  t.is(verdict(`@cert-authority ${line('*', mine)}`, ['host2']), 'unknown')
})

test('comments, empty lines and damaged ones say nothing', (t) => {
  const text = `# host2 ssh-ed25519 AAAA\n\nhost2\nhost2 ssh-ed25519\n |1|broken ssh-ed25519 AAAA\n`
  t.is(verdict(text, ['host2']), 'unknown')
})

test('what is added is read again; a fingerprint has the form that ssh-keygen shows', (t) => {
  t.is(verdict(lineFor('host2', mine), ['host2']), 'known')
  t.is(
    fingerprint(Buffer.from('abc')),
    'SHA256:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0',
    'SHA-256 of "abc" (FIPS 180), no padding',
  )
})
