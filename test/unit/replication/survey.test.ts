import test from 'ava'
import { decodeReports, encodeReports } from '../../../lib/replication/survey.js'
import { dataOid, inodeOid } from '../../../lib/vdi/oid.js'

const plain = { suspect: false, incomplete: false, hot: false, gap: false }

test('reports are the same at the other end', (t) => {
  const reports = [
    { oid: dataOid(7, 3), writeEpoch: 2, validThrough: 9, settledThrough: 8, keptThrough: 0, ...plain, suspect: true },
    { oid: inodeOid(7), writeEpoch: 1, validThrough: 1, settledThrough: 1, keptThrough: 5, ...plain, incomplete: true },
    {
      oid: inodeOid(8),
      writeEpoch: 3,
      validThrough: 3,
      settledThrough: 0,
      keptThrough: 2 ** 28 - 1,
      ...plain,
      hot: true,
      gap: true,
    },
  ]
  t.deepEqual(decodeReports(encodeReports(reports)), reports)
  const [last] = decodeReports(encodeReports([{ ...reports[0], keptThrough: 2 ** 30 }]))
  t.is(last.keptThrough, 2 ** 28 - 1, 'less than it is proves less')
  t.true(last.suspect)
})
