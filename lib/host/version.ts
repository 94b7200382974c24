/** The version of sheep and dog, as package.json has it. */
import { readFileSync } from 'node:fs'

/** From dist/lib/host/ up to the package's root. */
const packageFile = new URL('../../../package.json', import.meta.url)

export const VERSION: string = JSON.parse(readFileSync(packageFile, 'utf8')).version
