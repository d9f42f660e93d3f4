"""`looopctl completion bash|zsh|fish`: print the shell's completion script, made from the parsers themselves.

shtab, which Debian has, knows neither fish nor parsers that are loaded when used, so the walk is our own: every verb's
parser is made and read, and `completion_scripts` writes it down three times. Ids that live (workers, asks, goals ...)
are asked of `looopctl _ids KIND` by the script when a key is pressed.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from looop.ctl.command import Command, Context, Parser

TEXT, FILE, FOLDER, COMMAND = "text", "file", "folder", "command"


@dataclass(frozen=True)
class Value:
    """What an argument is completed with: one of the words above, `@KIND` for live ids, or these choices."""

    kind: str = TEXT
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flag:
    """One option; `value` is None when it takes none, or need not."""

    names: tuple[str, ...]
    help: str
    value: Value | None
    metavar: str = ""


@dataclass
class Node:
    """A verb or an action of one: its flags, its words in order (the last may repeat), its own actions."""

    path: tuple[str, ...]
    help: str = ""
    flags: list[Flag] = field(default_factory=list)
    words: list[Value] = field(default_factory=list)
    repeats: bool = False
    tail: bool = False  # after -- comes a command of the user's
    nodes: dict[str, "Node"] = field(default_factory=dict)

    def all(self) -> list["Node"]:
        return [self, *(found for node in self.nodes.values() for found in node.all())]


def tree() -> Node:
    """The whole command line, every verb's module loaded."""
    from looop.ctl import VERBS, load_command, make_parser

    top = Node(())
    _read(top, make_parser())
    top.words.clear()
    for verb, (_, text) in VERBS.items():
        node = Node((verb,), text, tail=bool(load_command(verb).tail))
        _read(node, make_parser(verb))
        top.nodes[verb] = node
    top.nodes["help"] = Node(("help",), "list all verbs")
    return top


def _read(node: Node, parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, below in action.choices.items():
                node.nodes[name] = Node((*node.path, name), helps.get(name, ""))
                _read(node.nodes[name], below)
        elif action.option_strings:
            if action.help is not argparse.SUPPRESS:
                takes = action.nargs not in (0, "?", "*")
                node.flags.append(
                    Flag(
                        tuple(action.option_strings), _help(action), _value(action) if takes else None,
                        str(action.metavar or action.dest.upper()),
                    )  # fmt: skip
                )
        else:
            node.words.append(_value(action))
            node.repeats = action.nargs in ("*", "+", argparse.REMAINDER)


def _help(action: argparse.Action) -> str:
    text = "show this verb's help" if isinstance(action, argparse._HelpAction) else action.help or ""
    return " ".join(text.replace("%%", "%").split())


def _value(action: argparse.Action) -> Value:
    kind = getattr(action, "complete", "")
    if kind:
        return Value(kind)
    if action.choices is not None:
        return Value(choices=tuple(str(choice) for choice in action.choices))
    if action.type is Path:
        return Value(FILE)
    return Value(COMMAND if action.nargs == argparse.REMAINDER else TEXT)


def _configure(parser: Parser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="for which shell")


def _run(args: argparse.Namespace, context: Context) -> int:
    from looop.ctl import completion_scripts

    print(getattr(completion_scripts, args.shell)(tree()), end="")
    return 0


command = Command(_configure, _run)
