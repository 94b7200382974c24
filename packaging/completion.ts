/** Completion for bash and zsh, from the same commands and options that dog has; names of volumes come from dog itself. */
import type { Command } from 'commander'
import { dogProgram } from '../lib/dog/program.js'

interface Node {
  /** `vdi create` */
  path: string
  words: string[]
  options: string[]
  /** Its first argument is a volume that is there */
  volume: boolean
}

const VOLUMES_TOO = `; _dog_volumes "\${own[@]}"`
/** Arguments by these names are volumes that exist */
const VOLUMES = /^(?:vdi|volume|source)$/i

function nodes(): Node[] {
  const found: Node[] = []
  const visit = (command: Command, path: string) => {
    const helper = command.createHelp()
    const options = helper.visibleOptions(command).flatMap(({ long, short }) => [long, short].filter((one) => one))
    const [first] = command.registeredArguments
    const creates = path === 'vdi create'
    found.push({
      path,
      words: command.commands.map((child) => child.name()),
      options: options as string[],
      volume: first !== undefined && !creates && (VOLUMES.test(first.name()) || /^vdi /.test(path)),
    })
    for (const child of command.commands) visit(child, path === '' ? child.name() : `${path} ${child.name()}`)
  }
  visit(
    dogProgram(() => Promise.resolve()),
    '',
  )
  return found
}

/** Options of dog itself that take a value: the word after them is not a command. */
function valued(): string[] {
  const { options } = dogProgram(() => Promise.resolve())
  return options
    .filter(({ required }) => required)
    .flatMap(({ long, short }) => [long, short].filter((one) => one)) as string[]
}

function cases(line: (node: Node) => string): string {
  return nodes()
    .map((node) => `    '${node.path}') ${line(node)} ;;\n`)
    .join('')
}

/** Both shells call `_dog_words`, which prints what may come next. In zsh `path` is where programs are, bash parts words at =. */
function words(): string {
  const options = valued()
  const assigned = options.filter((option) => option.startsWith('--')).map((option) => `${option}=*`)
  return `_dog_words() {
  # The words so far, without options, say which command it is; $1 is the one that is being typed. Which daemon is asked goes to dog.
  local verb='' word skip='' current=$1
  local -a own
  own=()
  shift
  for word in "$@"; do
    if [ -n "$skip" ]; then
      if [ "$word" != = ]; then own+=("$word"); skip=''; fi
      continue
    fi
    case $word in
      ${options.join('|')}) own+=("$word"); skip=yes ;;
      ${assigned.join('|')}) own+=("$word") ;;
      -*) ;;
      *) case " $_dog_verbs " in *" \${verb:+$verb/}$word "*) verb=\${verb:+$verb/}$word ;; esac ;;
    esac
  done
  case \${verb//\\// } in
${cases(({ words: next, options: all, volume }) => `printf '%s\\n' ${[...next, ...all].join(' ')}${volume ? VOLUMES_TOO : ''}`)}  esac | case $current in -*) grep '^-' ;; *) grep -v '^-' ;; esac
}
_dog_verbs='${nodes()
    .map(({ path }) => path.replaceAll(' ', '/'))
    .filter((path) => path !== '')
    .join(' ')}'
# A daemon that does not answer costs the person at the keyboard no more than this.
_dog_volumes() { timeout 2 dog "$@" --raw vdi list 2>/dev/null | cut -d' ' -f2 | sort -u; }
`
}

export function bashCompletion(): string {
  return `# bash completion for dog(8)
${words()}_dog() {
  local IFS=$'\\n'
  COMPREPLY=($(compgen -W "$(_dog_words "\${COMP_WORDS[COMP_CWORD]}" "\${COMP_WORDS[@]:1:COMP_CWORD-1}")" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _dog dog
`
}

export function zshCompletion(): string {
  return `#compdef dog
# zsh completion for dog(8)
${words()}_dog() {
  local -a found
  found=(\${(f)"$(_dog_words "\${words[CURRENT]}" \${words[2,CURRENT-1]})"})
  compadd -a found || _files
}
_dog "$@"
`
}
