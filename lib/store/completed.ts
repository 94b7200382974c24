import type { Completion } from '../host/interfaces.js'

/** A request's result as a promise, for work that is not on the hot path: `await completed((done) => disk.sync(fd, done))`. */
export function completed(start: (done: Completion) => void): Promise<number> {
  return new Promise((resolve, reject) => {
    try {
      start({ complete: resolve })
    } catch (error) {
      reject(error)
    }
  })
}
