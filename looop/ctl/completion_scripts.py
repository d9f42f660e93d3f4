"""The completion scripts themselves: one tree of verbs and flags, written in the words of bash, zsh and fish.

Each script is complete without looop but for live ids, which `looopctl _ids` prints; what that says on standard error
is never shown, and a name it prints needs no quoting (see `looop.paths.safe_name`).
"""

import shlex

from looop.ctl.completion import COMMAND, FILE, FOLDER, Flag, Node, Value

_NOTE = "# Completion of looopctl, made by `looopctl completion {shell}`."


def _path(node: Node) -> str:
    return " ".join(node.path)


def _spec(value: Value) -> str:
    """A value as the bash and fish scripts know it: a word, @KIND, or = and the choices."""
    return "=" + " ".join(value.choices) if value.choices else value.kind


# -- bash

_BASH = """
# What one argument is completed with. $1: its kind; the rest: the words before it.
_looopctl_value() {
    local kind=$1 cur=${COMP_WORDS[COMP_CWORD]}
    shift
    [[ $cur == = ]] && cur=
    case $kind in
        @*) mapfile -t COMPREPLY < <(compgen -W "$(looopctl _ids "${kind#@}" "$@" 2>/dev/null)" -- "$cur") ;;
        =*) mapfile -t COMPREPLY < <(compgen -W "${kind#=}" -- "$cur") ;;
        file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        folder) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        command) if (($#)); then _looopctl_value file; else mapfile -t COMPREPLY < <(compgen -c -- "$cur"); fi ;;
    esac
}

_looopctl() {
    local path="" takes="" word cur=${COMP_WORDS[COMP_CWORD]} i
    local -a args=() specs
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word == = ]] && continue
        if [[ $takes ]]; then takes=""; continue; fi
        if [[ $word == -- ]]; then
            [[ ${_looopctl_tail[$path]-} ]] && _looopctl_value command "${COMP_WORDS[@]:i+1:COMP_CWORD-i-1}"
            return
        elif [[ $word == -?* ]]; then
            takes=${_looopctl_takes["$path|$word"]-}
        elif ((${#args[@]} == 0)) && [[ ${_looopctl_known["${path:+$path }$word"]-} ]]; then
            path+=${path:+ }$word
        else
            args+=("$word")
        fi
    done
    if [[ $takes ]]; then
        _looopctl_value "$takes" "${args[@]}"
    elif [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "${_looopctl_flags[$path]-}" -- "$cur")
    elif [[ ${_looopctl_below[$path]-} ]]; then
        mapfile -t COMPREPLY < <(compgen -W "${_looopctl_below[$path]}" -- "$cur")
    else
        IFS=';' read -ra specs <<<"${_looopctl_words[$path]-}"
        i=${#args[@]}
        ((i >= ${#specs[@]})) && [[ ${_looopctl_repeats[$path]-} ]] && i=$((${#specs[@]} - 1))
        [[ ${specs[i]-} ]] && _looopctl_value "${specs[i]}" "${args[@]}"
    fi
    return 0
}

complete -F _looopctl looopctl
"""


def bash(top: Node) -> str:
    """The script for bash 4 and later; bash-completion is not needed."""
    tables: dict[str, dict[str, str]] = {
        name: {} for name in ("known", "below", "flags", "takes", "words", "repeats", "tail")
    }
    for node in top.all():
        path = _path(node)
        tables["known"] |= {path: "1"} if path else {}
        tables["below"][path or "top"] = " ".join(node.nodes)
        tables["flags"][path or "top"] = " ".join(name for flag in node.flags for name in flag.names)
        tables["words"][path or "top"] = ";".join(_spec(value) for value in node.words)
        tables["repeats"][path or "top"] = "1" if node.repeats else ""
        tables["tail"][path or "top"] = "1" if node.tail else ""
        for flag in node.flags:
            if flag.value is not None:
                tables["takes"] |= {f"{path}|{name}": _spec(flag.value) for name in flag.names}
    lines = [_NOTE.format(shell="bash")]
    for name, table in tables.items():
        rows = [f"    [{shlex.quote(key)}]={shlex.quote(value)}" for key, value in table.items() if value]
        lines += [f"declare -gA _looopctl_{name}=(", *rows, ")"]
    # an empty subscript is an error in bash: the top has a name
    return "\n".join(lines) + _BASH.replace("[$path]", "[${path:-top}]")


# -- zsh

_ZSH = """
_looopctl_ids() {
    local expl
    local -a ids
    ids=(${(f)"$(looopctl _ids $1 ${${words[2,CURRENT-1]}:#-*} 2>/dev/null)"})
    _wanted -V $1 expl $1 compadd -a ids
}
"""
# run by the completion system (a function of that name is being autoloaded), or sourced by a person
_ZSH_END = """
if [[ $funcstack[1] == _looopctl ]]; then
    _looopctl "$@"
else
    compdef _looopctl looopctl
fi
"""


def zsh(top: Node) -> str:
    """The script for zsh's completion system, to be found as _looopctl on $fpath."""
    lines = ["#compdef looopctl", _NOTE.format(shell="zsh"), _ZSH]
    for node in reversed(top.all()):
        lines += _zsh_function(node)
    return "\n".join(lines) + _ZSH_END


def _zsh_name(node: Node) -> str:
    return "_".join(["_looopctl", *(part.replace("-", "_") for part in node.path)])


def _zsh_function(node: Node) -> list[str]:
    flags = [_zsh_flag(flag, name) for flag in node.flags for name in flag.names]
    if node.nodes:
        described = [f"        {shlex.quote(f'{_colons(name)}:{below.help}')}" for name, below in node.nodes.items()]
        cases = [f"        {name}) {_zsh_name(below)} && ret=0 ;;" for name, below in node.nodes.items()]
        return [
            f"{_zsh_name(node)}() {{",
            "    local curcontext=$curcontext state line ret=1",
            "    local -a below=(",
            *described,
            "    )",
            "    _arguments -C -S " + " ".join(flags) + " \\",
            "        '1:action:{_describe -t actions action below}' '*:: :->below' && ret=0",
            "    [[ $state == below ]] && case $line[1] in",
            *cases,
            "    esac",
            "    return ret",
            "}",
            "",
        ]
    last = len(node.words)
    words = [_zsh_word(value, n, node.repeats and n == last) for n, value in enumerate(node.words, 1)]
    words += ["'*::command:_normal'"] if node.tail else []
    return [f"{_zsh_name(node)}() {{", "    _arguments -S " + " ".join([*flags, *words]), "}", ""]


def _zsh_flag(flag: Flag, name: str) -> str:
    text = flag.help.replace("[", "(").replace("]", ")")
    repeats = "*" if flag.value is not None and flag.metavar in ("KEY=VALUE", "A,B") else ""
    if flag.value is None:
        return shlex.quote(f"{name}[{text}]")
    joined = "=" if name.startswith("--") else ""
    return shlex.quote(f"{repeats}{name}{joined}[{text}]:{_colons(flag.metavar)}:{_zsh_action(flag.value)}")


def _zsh_word(value: Value, number: int, repeats: bool) -> str:
    kind = value.kind.lstrip("@") if not value.choices else "word"
    where = "*" if repeats else str(number)
    colons = "::" if repeats and value.kind == COMMAND else ":"
    return shlex.quote(f"{where}{colons}{_colons(kind)}:{_zsh_action(value)}")


def _zsh_action(value: Value) -> str:
    if value.choices:
        return "(" + " ".join(_colons(choice) for choice in value.choices) + ")"
    if value.kind.startswith("@"):
        return f" _looopctl_ids {value.kind[1:]}"  # the blank: called with these words and no others
    return {FILE: "_files", FOLDER: "_files -/", COMMAND: "_normal"}.get(value.kind, " ")


def _colons(text: str) -> str:
    return text.replace(":", "\\:")


# -- fish

_FISH = """
# Which verb and action the words so far name, and the words after them: __looopctl_path, __looopctl_args.
function __looopctl_parse
    set -l words (commandline -opc)
    set -e words[1]
    set -g __looopctl_path ''
    set -g __looopctl_args
    set -g __looopctl_tail 0
    set -l skip 0
    for word in $words
        if test $skip = 1
            set skip 0
        else if test "$word" = --
            set -g __looopctl_tail 1
            return
        else if string match -q -- '-*' $word
            contains -- "$__looopctl_path|$word" $__looopctl_takes; and set skip 1
        else
            set -l next (string trim -- "$__looopctl_path $word")
            if test (count $__looopctl_args) = 0; and contains -- $next $__looopctl_known
                set -g __looopctl_path $next
            else
                set -ga __looopctl_args $word
            end
        end
    end
end

# True at exactly that verb and action; with a number only for the word that comes so many words later.
function __looopctl_at
    __looopctl_parse
    test $__looopctl_tail = 0; and test "$__looopctl_path" = "$argv[1]"; or return 1
    set -l count (count $__looopctl_args)
    switch "$argv[2]"
        case ''
            return 0
        case '*+'
            test $count -ge (string trim -r -c + -- $argv[2])
        case '*'
            test $count = $argv[2]
    end
end

function __looopctl_after_dashes
    __looopctl_parse
    test $__looopctl_tail = 1; and contains -- $__looopctl_path $argv
end

function __looopctl_ids
    __looopctl_parse
    looopctl _ids $argv[1] $__looopctl_args 2>/dev/null
end

complete -c looopctl -f
"""


def fish(top: Node) -> str:
    """The script for fish."""
    known, takes, lines = [], [], []
    for node in top.all():
        path = _path(node)
        known += [path] if path else []
        at = f"__looopctl_at {_fish(path)}"
        for flag in node.flags:
            if flag.value is not None:
                takes += [f"{path}|{name}" for name in flag.names]
            lines.append(f"complete -c looopctl -n {_fish(at)} {_fish_flag(flag)}")
        for name, below in node.nodes.items():
            lines.append(f"complete -c looopctl -n {_fish(at + ' 0')} -a {_fish(name)} -d {_fish(below.help)}")
        for number, value in enumerate(node.words):
            more = "+" if node.repeats and number == len(node.words) - 1 else ""
            offered = _fish_value(value)
            if offered:
                lines.append(f"complete -c looopctl -n {_fish(f'{at} {number}{more}')} {offered}")
    tails = " ".join(_path(node) for node in top.all() if node.tail)
    if tails:
        lines.append(f"complete -c looopctl -n '__looopctl_after_dashes {tails}' -F -a '(__fish_complete_command)'")
    head = [_NOTE.format(shell="fish"), *(_fish_list(*table) for table in (("known", known), ("takes", takes)))]
    return "\n".join(head) + _FISH + "\n".join(lines) + "\n"


def _fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _fish_list(name: str, values: list[str]) -> str:
    return f"set -g __looopctl_{name} " + " ".join(_fish(value) for value in values)


def _fish_flag(flag: Flag) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
    value = ""
    if flag.value is not None:
        value = f" {'-r' if flag.value.kind in (FILE, COMMAND) else '-x'} {_fish_value(flag.value)}".rstrip()
    return f"{names}{value} -d {_fish(flag.help)}"


def _fish_value(value: Value) -> str:
    if value.choices:
        return f"-a {_fish(' '.join(value.choices))}"
    if value.kind.startswith("@"):
        return f"-k -a {_fish(f'(__looopctl_ids {value.kind[1:]})')}"
    return {FILE: "-F", FOLDER: "-a '(__fish_complete_directories)'", COMMAND: "-F -a '(__fish_complete_command)'"}.get(
        value.kind, ""
    )
