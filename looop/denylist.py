"""Shell commands that look irreversible: advice, not a fence.

A shell can spell anything in a way no reader of strings will see; what confines a command is the unit it runs
in. This catches the plain mistakes, by words as the shell splits them, before anything has run. Pure.
"""

import re
import shlex
from collections.abc import Iterator

Words = list[str]

_BREAKS = set(";&|()\n")
_OPENERS = {"then", "else", "elif", "do", "if", "while", "until", "!", "{", "exec", "time"}
# command that runs its arguments -> its options that take a value
_WRAPPERS = {
    "builtin": "", "command": "", "env": "uSC", "ionice": "cn", "nice": "n", "nohup": "", "setsid": "",
    "stdbuf": "ioe", "timeout": "ks", "xargs": "adEIiLnPs",
}  # fmt: skip
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "fish", "busybox"}
_INTERPRETERS = _SHELLS | {"python", "python3", "perl", "ruby", "node"}
_PRIVILEGE = {"sudo", "doas", "su", "pkexec", "run0"}
_POWER = {"shutdown", "reboot", "halt", "poweroff"}
_HOME = re.compile(r"(~|\$HOME|\$\{HOME\})(/\*?|/\.\*?)?\Z", re.IGNORECASE)
_SYSTEM = re.compile(r"/+(\.?|\*|(bin|boot|dev|etc|home|lib|lib64|opt|root|sbin|srv|sys|usr|var)(/+\*?)?)\Z")
_DEVICE = re.compile(r"/dev/(r?disk|sd|hd|vd|xvd|nvme|mmcblk|dm-|md|mapper/|loop)")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")


def dangerous(command: str) -> str | None:
    """What kind of damage the command looks made for, or None."""
    return _dangerous(command, depth=0)


def _dangerous(command: str, depth: int) -> str | None:
    if depth > 4:
        return None
    inner = list(_substitutions(command))
    for text in inner:
        if (kind := _dangerous(text, depth + 1)) is not None:
            return kind
    if re.search(r":\s*\(\s*\)\s*\{.*:\s*\|\s*:", command):
        return "a fork bomb"
    pipelines = [[_head(words) for words in pipeline] for pipeline in _pipelines(command)]
    if any(_runs(names) for names in pipelines) and any(_fetches(text) for text in inner):
        return "running code straight from the network"
    for pipeline in pipelines:
        fetched = next((i for i, words in enumerate(pipeline) if words[:1] in (["curl"], ["wget"])), None)
        if fetched is not None and _runs(pipeline[fetched + 1 :]):
            return "running code straight from the network"
        for words in pipeline:
            if (kind := _words_kind(words, depth)) is not None:
                return kind
    return None


def _runs(pipeline: list[Words]) -> bool:
    return any(words and words[0] in _INTERPRETERS | {"eval", "source", "."} for words in pipeline)


def _fetches(command: str) -> bool:
    return any(_head(words)[:1] in (["curl"], ["wget"]) for pipeline in _pipelines(command) for words in pipeline)


def _substitutions(command: str) -> Iterator[str]:
    """The insides of $(...), <(...) and backquotes that single quotes do not hide."""
    bare = re.sub(r"'[^']*'", "''", command)
    yield from re.findall(r"`([^`]*)`", bare)
    for match in re.finditer(r"[$<>]\(", bare):
        depth = 1
        for end in range(match.end(), len(bare)):
            depth += {"(": 1, ")": -1}.get(bare[end], 0)
            if not depth:
                yield bare[match.end() : end]
                break


def _tokens(command: str) -> Words:
    lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace = " \t\r"
    lexer.commenters = ""
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:  # an unclosed quote: the shell will refuse it too
        return command.split()


def _pipelines(command: str) -> Iterator[list[Words]]:
    """Simple commands in the order they appear, those joined by | together."""
    pipeline: list[Words] = [[]]
    for token in _tokens(command):
        if token in ("|", "|&"):
            pipeline.append([])
        elif set(token) <= _BREAKS:
            yield pipeline
            pipeline = [[]]
        else:
            pipeline[-1].append(token)
    yield pipeline


def _head(words: Words) -> Words:
    """`words` from the command's own name on, its folder cut off: wrappers, keywords and assignments skipped."""
    words = list(words)
    while words:
        word = words[0].rpartition("/")[2]
        if _ASSIGNMENT.match(words[0]) or word in _OPENERS:
            words = words[1:]
        elif word in _WRAPPERS:
            words = _after_options(words[1:], _WRAPPERS[word])
            if word == "timeout":
                words = words[1:]
        else:
            return [word, *words[1:]]
    return []


def _after_options(words: Words, valued: str) -> Words:
    while words and words[0].startswith("-"):
        short = len(words[0]) == 2 and words[0][1] in valued
        words = words[2:] if short else words[1:]
    return words


def _words_kind(words: Words, depth: int) -> str | None:
    for target in (after for sign, after in zip(words, words[1:], strict=False) if sign in (">", ">>", ">|", "&>")):
        if _DEVICE.match(target):
            return "writing over a disk"
    if not words:
        return None
    name, arguments = words[0], words[1:]
    flags = "".join(a[1:] for a in arguments if re.match(r"-[A-Za-z]", a))
    long = {a.partition("=")[0] for a in arguments if a.startswith("--")}
    operands = [a for a in arguments if not a.startswith("-")]
    if name in _PRIVILEGE:
        return "asking for more rights"
    if name in _POWER or (name == "systemctl" and set(operands) & (_POWER | {"kexec", "rescue", "emergency"})):
        return "stopping the machine"
    if name == "rm" and (set(flags) & set("rR") or "--recursive" in long) and any(map(_precious, operands)):
        return "removing a whole tree that is not yours"
    if name == "find" and "-delete" in arguments and any(map(_precious, operands[:1])):
        return "removing a whole tree that is not yours"
    if name.startswith("mkfs") or name in ("wipefs", "blkdiscard"):
        return "wiping a disk"
    if name == "dd" and any(a.startswith("of=") and _DEVICE.match(a[3:]) for a in arguments):
        return "writing over a disk"
    if name == "tee" and any(_DEVICE.match(a) for a in operands):
        return "writing over a disk"
    if name == "git":
        return _git_kind(arguments)
    if name == "eval":
        return _dangerous(" ".join(arguments), depth + 1)
    if name in _SHELLS and "c" in flags:
        return next((kind for script in operands if (kind := _dangerous(script, depth + 1)) is not None), None)
    return None


def _precious(operand: str) -> bool:
    return bool(_HOME.match(operand) or _SYSTEM.match(operand))


def _git_kind(arguments: Words) -> str | None:
    """Force pushes, and deletions, of main or master, or of whatever happens to be checked out."""
    words = _after_options(arguments, "Cc")
    if words[:1] != ["push"]:
        return None
    options = [w for w in words[1:] if w.startswith("-")]
    operands = [w for w in words[1:] if not w.startswith("-")]
    short = "".join(o[1:] for o in options if not o.startswith("--"))
    forced = "f" in short or any(o.startswith("--force") for o in options)
    deletes = "d" in short or "--delete" in options
    refs = operands[1:]
    shared = [ref for ref in refs if re.search(r"(^|[+:/])(main|master)\Z", ref)]
    if "--mirror" in options or (forced and not refs):
        return "rewriting shared history"
    if any(forced or deletes or ref.startswith(("+", ":")) for ref in shared):
        return "rewriting shared history"
    return None
