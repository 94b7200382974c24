/** Our interfaces, as introspection shows them and calls are checked against. docs/dbus.md says what each is for. */

export interface Argument {
  name: string
  type: string
}

export interface Method {
  takes: readonly Argument[]
  gives: readonly Argument[]
}

export interface Property {
  type: string
  /** const: never changes while the object is there */
  changes: 'true' | 'const'
}

export interface Interface {
  methods: Readonly<Record<string, Method>>
  properties: Readonly<Record<string, Property>>
  signals: Readonly<Record<string, readonly Argument[]>>
}

/** 'name type, name type' */
function list(text: string): Argument[] {
  if (text === '') return []
  return text.split(', ').map((part) => {
    const [name, type] = part.split(' ')
    return { name, type }
  })
}

function method(takes: string, gives = ''): Method {
  return { takes: list(takes), gives: list(gives) }
}

function properties(constant: string, changing: string): Record<string, Property> {
  const each = (text: string, changes: 'true' | 'const'): [string, Property][] => {
    return list(text).map(({ name, type }) => [name, { type, changes }])
  }
  return Object.fromEntries([...each(constant, 'const'), ...each(changing, 'true')])
}

export const CLUSTER = 'org.sheepdog.Cluster'
export const NODE = 'org.sheepdog.Node'
export const VOLUME = 'org.sheepdog.Volume'
export const SNAPSHOT = 'org.sheepdog.Snapshot'

const checkReport = 'objects t, bytes t, problems a(ssasb)'
const usage = 'used t, shared t'

export const INTERFACES: Readonly<Record<string, Interface>> = {
  [CLUSTER]: {
    methods: {
      CreateVolume: method('name s, size t, options a{sv}', 'volume o'),
      FindVolume: method('name s', 'volume o'),
      FindSnapshot: method('name s, snapshot s', 'snapshot o'),
      Format: method('options a{sv}'),
      Recover: method(''),
      HoldRecovery: method(''),
      ReleaseRecovery: method(''),
      LimitRecovery: method('rate t'),
      SetOnNoQuorum: method('wait t'),
      StartScrub: method(''),
      StopScrub: method(''),
      Check: method('repair b', checkReport),
    },
    properties: properties(
      'Version s, LocalNode o',
      [
        'Status s, StatusReason s, Quorate b, ClusterId s, Created t, Copies u, ObjectSize t, Epoch t, EpochTime t',
        'Nodes ao, Recovering ao, RecoveryHeld b, RecoveryLimit t, OnNoQuorum t',
      ].join(', '),
    ),
    signals: {
      NodeJoined: list('node o, name s, epoch t'),
      NodeLeft: list('node o, name s, epoch t, reason s, detail s'),
      EpochChanged: list('epoch t, nodes ao'),
      QuorumLost: list('reason s'),
      QuorumRegained: [],
      RecoveryProgress: list('node o, state s, objects_done t, objects_total t, bytes_done t, bytes_total t'),
    },
  },
  [NODE]: {
    methods: {
      GetSpace: method('', 'total t, free t, used t, objects t'),
      GetDisks: method('', 'disks a(ssttttss)'),
      Stop: method(''),
    },
    properties: properties('Id s, Local b', 'Name s, Host s, Port q, Zone s, Space t, VNodes u, Recovered b'),
    signals: {},
  },
  [VOLUME]: {
    methods: {
      Resize: method('size t, shrink b'),
      Snapshot: method('tag s', 'snapshot o'),
      Rename: method('name s', 'volume o'),
      Delete: method(''),
      BreakLock: method('node o, session s'),
      SetOnNoQuorum: method('wait x'),
      GetUsage: method('', usage),
      Check: method('repair b', checkReport),
    },
    properties: properties(
      'Name s',
      [
        'Vid u, Size t, Copies u, ObjectSize t, Created t, Preallocated b, Clone b, Parent o, Locks a(ossst)',
        'OnNoQuorum x',
      ].join(', '),
    ),
    signals: {},
  },
  [SNAPSHOT]: {
    methods: {
      Clone: method('name s', 'volume o'),
      RollBack: method('', 'volume o'),
      Delete: method(''),
      GetUsage: method('', usage),
      Check: method('repair b', checkReport),
    },
    properties: properties(
      'Name s, Id u',
      'Tag s, Vid u, Size t, Copies u, ObjectSize t, Created t, Preallocated b, Volume o, Parent o, Locks a(ossst)',
    ),
    signals: {},
  },
}

export function signatureOf(list: readonly Argument[]): string {
  return list.map(({ type }) => type).join('')
}

// --- introspection (D-Bus specification, "Introspection Data Format") ------------------------------------------------

const DOCTYPE =
  '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n' +
  ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'

export const PROPERTIES = 'org.freedesktop.DBus.Properties'
export const INTROSPECTABLE = 'org.freedesktop.DBus.Introspectable'
export const PEER = 'org.freedesktop.DBus.Peer'
export const OBJECT_MANAGER = 'org.freedesktop.DBus.ObjectManager'

/** D-Bus's own, which we serve beside ours. */
export const STANDARD: Readonly<Record<string, Interface>> = {
  [INTROSPECTABLE]: { methods: { Introspect: method('', 'xml_data s') }, properties: {}, signals: {} },
  [PEER]: { methods: { Ping: method(''), GetMachineId: method('', 'machine_uuid s') }, properties: {}, signals: {} },
  [PROPERTIES]: {
    methods: {
      Get: method('interface_name s, property_name s', 'value v'),
      GetAll: method('interface_name s', 'properties a{sv}'),
      Set: method('interface_name s, property_name s, value v'),
    },
    properties: {},
    signals: {
      PropertiesChanged: list('interface_name s, changed_properties a{sv}, invalidated_properties as'),
    },
  },
  [OBJECT_MANAGER]: {
    methods: { GetManagedObjects: method('', 'objects a{oa{sa{sv}}}') },
    properties: {},
    signals: {
      InterfacesAdded: list('object o, interfaces a{sa{sv}}'),
      InterfacesRemoved: list('object o, interfaces as'),
    },
  },
}

/** @param children elements of paths below this object: they need no escaping in XML */
export function introspection(interfaces: readonly string[], children: Iterable<string>): string {
  let xml = `${DOCTYPE}<node>\n`
  for (const name of interfaces) xml += interfaceXml(name, INTERFACES[name] ?? STANDARD[name])
  for (const child of children) xml += ` <node name="${child}"/>\n`
  return `${xml}</node>\n`
}

function interfaceXml(name: string, shape: Interface): string {
  const argument = (direction: string) => (arg: Argument) => {
    return `   <arg name="${arg.name}" type="${arg.type}"${direction === '' ? '' : ` direction="${direction}"`}/>\n`
  }
  let xml = ` <interface name="${name}">\n`
  for (const [member, { takes, gives }] of Object.entries(shape.methods)) {
    const args = [...takes.map(argument('in')), ...gives.map(argument('out'))].join('')
    xml += args === '' ? `  <method name="${member}"/>\n` : `  <method name="${member}">\n${args}  </method>\n`
  }
  for (const [member, { type, changes }] of Object.entries(shape.properties)) {
    xml += `  <property name="${member}" type="${type}" access="read">\n`
    xml += `   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="${changes}"/>\n  </property>\n`
  }
  for (const [member, args] of Object.entries(shape.signals)) {
    const list = args.map(argument('')).join('')
    xml += list === '' ? `  <signal name="${member}"/>\n` : `  <signal name="${member}">\n${list}  </signal>\n`
  }
  return `${xml} </interface>\n`
}
