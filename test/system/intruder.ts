/**
 * Runs on a host of the bed that is no member: `intruder.js relay PORT HOST FILE` stands between the daemon on HOST and whoever
 * comes to this host's PORT instead, and keeps what it was told; `intruder.js say FILE HOST:PORT...` says such a record, and what else strangers
 * say, to daemons, and prints what came of it.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { proofOfNextVersion, tell, unprovenHello } from '../support/stranger.js'

/** Of what is said to somebody, each is said so often. */
const times = 3
/** What is kept of a connection */
const recordMax = 2 << 20

function relay(port: number, host: string, file: string): void {
  let most = 0
  const server = createServer((from) => {
    const to = connect(port, host)
    const pieces: Buffer[] = []
    let length = 0
    from.on('data', (bytes) => {
      if (length < recordMax) pieces.push(bytes)
      length += bytes.length
    })
    from.on('close', () => {
      if (length > most) writeFileSync(file, Buffer.concat(pieces))
      most = Math.max(most, length)
    })
    for (const [one, other] of [
      [from, to],
      [to, from],
    ]) {
      one.pipe(other)
      one.on('error', () => other.destroy())
      one.on('close', () => other.destroy())
    }
  })
  server.listen(port)
}

async function say(file: string, places: readonly string[]): Promise<void> {
  const words = { unprovenHello: unprovenHello(), proofOfNextVersion: proofOfNextVersion(), replay: readFileSync(file) }
  const answers: { what: string; to: string; closed: boolean; answer: string }[] = []
  for (const place of places) {
    const [host, port] = place.split(':')
    for (const [what, bytes] of Object.entries(words)) {
      for (let time = 0; time < times; time++) {
        const { answer, closed } = await tell({ host, port: Number(port) }, [bytes])
        answers.push({ what, to: place, closed, answer: answer.toString('latin1') })
      }
    }
  }
  console.log(JSON.stringify(answers))
}

const [what, ...words] = process.argv.slice(2)
if (what === 'relay') relay(Number(words[0]), words[1], words[2])
else await say(words[0], words.slice(1))
