import test from 'ava'
import { SheepError } from '../../../lib/errors.js'
import { HANDLES_MAX, type HandleFile, Handles } from '../../../lib/fuse/handles.js'

/** A file in memory. */
function memoryFile(): HandleFile & { bytes: Buffer } {
  const file = {
    bytes: Buffer.alloc(0),
    read: () => file.bytes,
    write(position: number, bytes: Buffer) {
      const end = position + bytes.length
      if (end > file.bytes.length) file.bytes = Buffer.concat([file.bytes, Buffer.alloc(end - file.bytes.length)])
      bytes.copy(file.bytes, position)
    },
  }
  return file
}

test('the next process finds what is open, and by which request it was opened', (t) => {
  const file = memoryFile()
  const handles = new Handles(file)
  const a = handles.add(0x2000001, true, '0:7')
  const b = handles.add(0x1000002, false, '2147483646:9')
  handles.remove(handles.add(0x2000003, true, '0:11'))
  const next = new Handles(file)
  t.deepEqual(next.all(), [a, b])
  t.deepEqual(next.get(a.number), a)
  t.deepEqual(next.openedBy('2147483646:9', 0x1000002), b)
  t.is(next.openedBy('2147483646:9', 0x1000003), null)
  const fresh = next.add(5, false, '0:13')
  t.false([a.number, b.number].includes(fresh.number))
})

test('a number that was closed is nobody else’s, though its slot is', (t) => {
  const handles = new Handles(null)
  const first = handles.add(1, true, '0:1')
  handles.remove(first)
  t.is(handles.get(first.number), null)
  const second = handles.add(2, true, '0:2')
  t.not(second.number, first.number)
  t.is(handles.get(first.number), null)
  t.deepEqual(handles.get(second.number), second)
  t.is(handles.get(Number.MAX_SAFE_INTEGER), null)
})

test('their number is bounded, and a damaged file gives no handle', (t) => {
  const handles = new Handles(null)
  for (let i = 0; i < HANDLES_MAX; i++) handles.add(i, false, `0:${i}`)
  t.is(t.throws(() => handles.add(1, false, '0:1'), { instanceOf: SheepError }).code, 'busy')
  const damaged = new Handles({ read: () => Buffer.alloc(1000, 0xff), write: () => {} })
  t.deepEqual(damaged.all(), [])
})
