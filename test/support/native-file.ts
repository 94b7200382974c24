/** mmap(2) and copy_file_range(2), which Node does not offer, for tests on 64-bit Linux. */
import { createRequire } from 'node:module'

const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi')
const libc = koffi.load(null)
const mmap = libc.func('mmap', 'intptr_t', ['intptr_t', 'size_t', 'int', 'int', 'int', 'int64_t'])
const munmap = libc.func('munmap', 'int', ['intptr_t', 'size_t'])
const memcpyTo = libc.func('memcpy', 'intptr_t', ['intptr_t', 'void *', 'size_t'])
const memcpyFrom = libc.func('memcpy', 'intptr_t', ['void *', 'intptr_t', 'size_t'])
const copy = libc.func('copy_file_range', 'int64_t', ['int', 'int64_t *', 'int', 'int64_t *', 'size_t', 'uint'])

const PAGE = 4096
const PROT_READ = 1
const PROT_WRITE = 2
const MAP_SHARED = 1

/** Reads or writes bytes of a file through a shared mapping. They must lie within the file. */
export function mapped(fd: number, bytes: Buffer, offset: number, writes: boolean): void {
  const start = offset - (offset % PAGE)
  const length = offset - start + bytes.length
  const protection = writes ? PROT_READ | PROT_WRITE : PROT_READ
  const address = Number(mmap(0, length, protection, MAP_SHARED, fd, start))
  if (address === -1) throw new Error(`mmap: errno ${koffi.errno()}`)
  const at = address + (offset - start)
  if (writes) memcpyTo(at, bytes, bytes.length)
  else memcpyFrom(bytes, at, bytes.length)
  if (munmap(address, length) !== 0) throw new Error(`munmap: errno ${koffi.errno()}`)
}

/** Bytes copied within or between files; may be fewer than asked. */
export function copyFileRange(from: number, fromOffset: number, to: number, toOffset: number, length: number): number {
  const copied = Number(copy(from, [fromOffset], to, [toOffset], length, 0))
  if (copied < 0) throw new Error(`copy_file_range: errno ${koffi.errno()}`)
  return copied
}
