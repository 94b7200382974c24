/** Mounting and unmounting through mount(8) and umount(8), in processes of their own: the kernel may ask this one meanwhile. */
import { spawn } from 'node:child_process'
import fs from 'node:fs'
import { SheepError } from '../errors.js'

const FILE_SYSTEM = 'fuse.sheepdog'
/** For mount(8), umount(8) and a look at the place */
const TOOL_MS_MAX = 10_000
const OPTIONS = 'rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,nosuid,nodev'

/** none: no file system of ours is there. stale: the one there has lost its daemon. alive: somebody serves it. */
export type MountState = 'none' | 'stale' | 'alive'

/**
 * proc(5), mountinfo: the fifth field is the place, with octal escapes; behind " - " the type and the source. The mount(8) of Debian 13
 * does not tell the kernel the part of the type behind the dot.
 */
export function isMounted(place: string): boolean {
  const text = fs.readFileSync('/proc/self/mountinfo', 'utf8')
  return text.split('\n').some((line) => {
    const [before, after = ''] = line.split(' - ')
    const at = (before.split(' ')[4] ?? '').replace(/\\([0-7]{3})/g, (_, code) =>
      String.fromCharCode(Number.parseInt(code, 8)),
    )
    return at === place && /^fuse(\.sheepdog)? sheepdog /.test(after)
  })
}

export async function mountState(place: string): Promise<MountState> {
  if (!isMounted(place)) return 'none'
  // Another process asks: a daemon that hangs lets whoever asks hang.
  const { code, error } = await tool('stat', ['-f', place])
  if (code === 0 || !/not connected|aborted/i.test(error)) return 'alive'
  return 'stale'
}

/** An opened /dev/fuse, mounted there. SheepError system, invalid. */
export async function mountAt(place: string): Promise<number> {
  fs.mkdirSync(place, { recursive: true, mode: 0o755 })
  if (fs.readdirSync(place).length > 0) {
    throw new SheepError(
      'invalid',
      `${place} is not empty: mounting would hide what is there`,
      'choose another --volumes',
    )
  }
  let fd: number
  try {
    fd = fs.openSync('/dev/fuse', fs.constants.O_RDWR)
  } catch (error) {
    throw new SheepError('system', `cannot open /dev/fuse: ${(error as Error).message}`, 'modprobe fuse; it needs root')
  }
  const { code, error } = await tool('mount', ['-i', '-t', FILE_SYSTEM, '-o', `fd=3,${OPTIONS}`, 'sheepdog', place], fd)
  if (code === 0) return fd
  fs.closeSync(fd)
  throw new SheepError('system', `mounting ${place} failed: ${error}`, 'see dmesg; mounting needs root')
}

/** False when somebody has files open there; `lazy`: then too it is out of sight at once. */
export async function unmount(place: string, lazy: boolean): Promise<boolean> {
  const { code } = await tool('umount', ['-i', ...(lazy ? ['-l'] : []), place])
  return code === 0
}

function tool(program: string, words: string[], fd?: number): Promise<{ code: number | null; error: string }> {
  return new Promise((resolve) => {
    const stdio: (number | 'ignore' | 'pipe')[] = ['ignore', 'ignore', 'pipe', ...(fd === undefined ? [] : [fd])]
    const child = spawn(program, words, { stdio, env: { ...process.env, LC_ALL: 'C' } })
    let error = ''
    child.stderr?.on('data', (part: Buffer) => {
      error += part
    })
    // One that hangs in the kernel cannot be killed, nor need it be waited for.
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      child.unref()
      resolve({ code: null, error: `${program} did not end within ${TOOL_MS_MAX / 1000} s` })
    }, TOOL_MS_MAX)
    child.on('error', (failure) => {
      clearTimeout(timer)
      resolve({ code: null, error: failure.message })
    })
    child.on('close', (code) => {
      clearTimeout(timer)
      resolve({ code, error: error.trim() })
    })
  })
}
