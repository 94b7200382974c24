/**
 * `npm run quickstart [-- --directory DIR]` and `npm run quickstart:stop [-- --directory DIR]`: the main job on one host,
 * by the commands that a user types.
 */
import { join } from 'node:path'
import { optionsOf } from '../support/options.js'
import { freePorts } from '../support/process.js'
import { bold, dim, Narrator, red, StepFailed, seconds } from './narrator.js'
import { defaultDirectory, Site, stores } from './site.js'

const imageContent = join(import.meta.dirname, '..', '..', '..', 'node_modules')
const firstPort = 7000

async function main(site: Site, ports: readonly number[]): Promise<void> {
  const start = performance.now()
  const narrator = new Narrator(site.directory, { PATH: `${site.path('bin')}:${process.env.PATH}:/usr/sbin:/sbin` })
  const show: Narrator['show'] = (line, options) => narrator.show(line, options)
  const sheep = (i: number) => `sheep -c local:engine -p ${ports[i]} -P ${stores[i]}.pid ${stores[i]}`
  const uri = (name: string) => `nbd+unix:///${name}?socket=a/nbd.sock`
  const compare = (name: string) => `qemu-img compare -f qcow2 -F raw image.qcow2 '${uri(name)}'`

  console.log(`${bold('Sheepdog on one host')}: three daemons, three copies of everything.`)
  console.log(`Everything is in ${bold(site.directory)}, and these commands run there.`)

  narrator.title('An image to copy in: 10 GiB, with a file system full of files')
  await show(`mke2fs -q -t ext4 -d '${imageContent}' image.raw 10G`, { hide: /Creating regular file/ })
  await show('qemu-img convert -f raw -O qcow2 image.raw image.qcow2 && rm image.raw')

  narrator.title('Three daemons, each with a store of its own; one cluster with three copies')
  for (const i of stores.keys()) await show(sheep(i))
  await show('dog cluster format -c 3')

  narrator.title('A thin volume of 10 GiB; the image goes in through NBD, is read back and compared')
  await show('dog vdi create demo 10G')
  await show(`qemu-img convert -n -f qcow2 -O raw image.qcow2 '${uri('demo')}'`)
  await show(compare('demo'))

  narrator.title('A snapshot, and a clone of it')
  await show('dog vdi snapshot -s first demo')
  await show('dog vdi clone -s first demo demo2')
  await show('dog vdi list')

  narrator.title('One daemon is killed: nothing is lost, and writing goes on')
  await show('kill -9 $(cat c.pid)')
  await show(compare('demo'))
  await show(`qemu-io -f raw -c 'write -P 0x5a 9G 256M' '${uri('demo2')}'`)
  await show('dog node list')

  narrator.title('It comes back, and receives what changed while it was away')
  await show(sheep(2))
  await show('dog node recovery --watch', { live: true })
  await show('dog node list')
  await show('dog vdi check demo2', { live: true })
  await show(compare('demo'))

  const bin = site.path('bin')
  console.log(`\n${bold(`Done in ${seconds(performance.now() - start)}. The cluster is running.`)} Try next:`)
  console.log(`  ${bin}/dog vdi tree`)
  console.log(`  ${bin}/dog vdi snapshot -s second demo`)
  console.log(`  nbdinfo '${uri('demo').replace('=a/', `=${site.path('a')}/`)}'`)
  console.log(
    `Stop it:\n  npm run quickstart:stop${site.directory === defaultDirectory ? '' : ` -- --directory ${site.directory}`}`,
  )
}

async function cleanUp(site: Site): Promise<void> {
  await site.stop()
  site.remove()
}

async function start(site: Site): Promise<number> {
  const obstacle = site.obstacle()
  if (obstacle !== '') {
    console.error(red(obstacle), 'Name another directory: npm run quickstart -- --directory DIR')
    return 1
  }
  if (site.isOurs) {
    const stopped = await site.stop()
    console.log(dim(`Removing the last quickstart in ${site.directory}${stopped > 0 ? ' and its daemons' : ''}.`))
    site.remove()
  }
  const ports = await freePorts(stores.length, firstPort)
  site.create(ports[0])
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => {
      console.error(red(`\nStopped by ${signal}: ending the daemons and removing ${site.directory}.`))
      cleanUp(site).finally(() => process.exit(1))
    })
  try {
    await main(site, ports)
    return 0
  } catch (error) {
    console.error(`\n${red('The quickstart failed.')} ${error instanceof StepFailed ? error.message : String(error)}`)
    const logs = site.logs()
    if (logs !== '') console.error(`${dim('The daemons said last:')}\n${logs}`)
    await cleanUp(site)
    console.error(`Its daemons were stopped and ${site.directory} removed.`)
    return 1
  }
}

async function stop(site: Site): Promise<number> {
  if (!site.isOurs) {
    console.log(`There is no quickstart in ${site.directory}: nothing to stop.`)
    return 0
  }
  const count = await site.stop()
  console.log(
    `${count === 1 ? '1 daemon' : `${count} daemons`} stopped. The data is still there: rm -r ${site.directory}`,
  )
  return 0
}

const { values, positionals } = optionsOf(
  'npm run quickstart [-- --directory DIR], npm run quickstart:stop [-- --directory DIR]',
  {
    allowPositionals: true,
    options: { directory: { type: 'string', default: defaultDirectory } },
  },
)
const site = new Site(values.directory)
process.exitCode = positionals[0] === 'stop' ? await stop(site) : await start(site)
