/** The version of sheep and dog, as package.json has it. */

/** Put in by build.mjs and packaging/bundle.ts */
declare const SHEEPDOG_VERSION: string

export const VERSION = SHEEPDOG_VERSION
