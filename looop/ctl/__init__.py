"""`looopctl`: parse, dispatch, and the one place where an error becomes words and an exit code.

A verb's module is imported only when that verb is used: `looopctl claim` in a script must start fast.
"""

import argparse
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from looop import __version__
from looop.ctl.command import Command, Context, Parser, leave, sentence
from looop.errors import ExitCode, LooopError, StateError, UsageError

# verb -> (module in looop.ctl, one line of help)
VERBS = {
    "init": ("init", "choose what decides, and write the configuration"),
    "up": ("up", "start the pulse"),
    "down": ("up", "stop the pulse and the workers"),
    "serve": ("serve", "start the pulse, follow it, stop everything on Ctrl-C"),
    "status": ("status", "what looop is doing, on one screen"),
    "watch": ("watch", "the fleet, its screens and its questions on one terminal"),
    "state": ("state", "everything a client needs to know, at once"),
    "wait": ("wait", "sleep until something is new, and say what"),
    "beat": ("beat", "ask the pulse for a beat now"),
    "doctor": ("doctor", "check what looop needs from this host"),
    "goal": ("goal", "write, archive, list and show goals, and their history"),
    "sensor": ("sensor", "write, list and run sensors, and their history"),
    "playbook": ("playbook", "write and show the playbook and its history"),
    "rules": ("rules", "check the rules against the present world"),
    "schedule": ("schedule", "write, remove and list schedules"),
    "run": ("run", "run one shell command the way a run_shell move does"),
    "worker": ("worker", "start, kill and list workers"),
    "kill": ("kill", "stop a worker"),
    "claim": ("claim", "take a lease, or hold one for the length of a command"),
    "unclaim": ("claim", "give a lease back"),
    "claims": ("claim", "list leases and their holders"),
    "ask": ("ask", "ask the human and wait for the answer"),
    "answer": ("answer", "answer a worker's question"),
    "asks": ("asks", "list the questions that are open, and those that were"),
    "tell": ("tell", "leave a message for a worker"),
    "told": ("tell", "read the messages left for this worker"),
    "flag": ("flag", "put a note on a worker"),
    "unflag": ("flag", "take the note off a worker"),
    "events": ("events", "read looop's events back from the systemd journal"),
    "journal": ("journal", "show the audit journal, one line a move"),
    "why": ("why", "everything known about one worker or one decision"),
    "log": ("log", "show a worker's transcript"),
    "screenshot": ("screenshot", "show what is on a worker's terminal"),
    "attach": ("attach", "a terminal on a worker, read-only unless told otherwise"),
    "import": ("imports", "take over a data directory of the portable looop"),
    "completion": ("completion", "print the completion script of a shell"),
    "version": ("version", "print the version"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=self.format_usage())


def load_command(verb: str) -> Command:
    """The verb's record; a module that serves several verbs names it `command_VERB`."""
    module = importlib.import_module(f"looop.ctl.{VERBS[verb][0]}")
    command = getattr(module, f"command_{verb}", None) or module.command
    assert isinstance(command, Command)
    return command


def make_parser(verb: str | None = None) -> Parser:
    """The parser of one verb, or with none the top level (which knows the verbs' names and help only)."""
    if verb is not None:
        parser = _Parser(prog=f"looopctl {verb}", description=sentence(VERBS[verb][1]), allow_abbrev=False)
        load_command(verb).configure(parser)
        return parser
    width = max(map(len, VERBS))
    parser = _Parser(
        prog="looopctl",
        usage="looopctl VERB ...",
        description="Steer and watch looop, the control loop for agent-driven work.",
        epilog="verbs:\n" + "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in VERBS.items())
        + "\n\n`looopctl VERB --help` says more. Manual: README.md; service: systemctl --user status looop",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"looop {__version__}")
    parser.add_argument("verb", metavar="VERB", choices=VERBS, help=argparse.SUPPRESS)
    return parser


def _parse(verb: str, words: list[str]) -> argparse.Namespace:
    tail = load_command(verb).tail
    end = words.index("--") if tail and "--" in words else len(words)
    parser = make_parser(verb)
    args, rest = parser.parse_known_args(words[:end])
    if rest and hasattr(args, "body"):
        # argparse fills a free text from the first stretch of words; those behind an option are left over
        unknown = [word for word in rest[: rest.index("--") if "--" in rest else len(rest)] if word.startswith("-")]
        if unknown and unknown != ["-"]:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        if "--" in rest:
            rest.remove("--")
        args.body = [*args.body, *rest]
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if tail:
        setattr(args, tail, words[end + 1 :])
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    if argv is not None:
        return _run(list(argv), program=False)
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # half a surrogate pair in anybody's record must not hide the rest
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(sys.argv[1:], program=True)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # a reader that left early, as in `looopctl events | head`: end as any program would
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
        raise
    except OSError as error:
        print(f"looopctl: cannot write what was found: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(ExitCode.TRY_AGAIN)  # the interpreter's farewell would try again


def _open_what_is_closed() -> None:
    """A standard stream that the caller closed is /dev/null: the next file to be opened must not take its place."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), "w" if fd else "r", encoding="utf-8"))


def _run(words: list[str], program: bool) -> int:
    as_json = "--json" in words[: words.index("--") if "--" in words else None]
    try:
        return _verb(words, program)
    except SystemExit as end:  # argparse has shown help
        return int(end.code or 0)
    except LooopError as error:
        report(error, as_json)
        return error.code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        if error.filename is None or os.environ.get("LOOOP_DEBUG"):
            raise
        refused = StateError(f"cannot use {error.filename}: {error.strerror}")
        report(refused, as_json)
        return refused.code
    except Exception as error:  # the boundary: anything else is our own fault, say so in one line
        if os.environ.get("LOOOP_DEBUG"):
            raise
        print(f"looopctl: internal error: {type(error).__name__}: {error} (LOOOP_DEBUG=1 shows where)", file=sys.stderr)
        return 70


def _verb(words: list[str], program: bool) -> int:
    if not words or words[0] == "help":
        make_parser().print_help()
        return ExitCode.DONE
    verb = words[0]
    if verb == "_ids":  # what completions ask for while a key is pressed
        from looop.ctl.completion_ids import main as ids

        return ids(words[1:])
    if verb.startswith("-"):
        make_parser().parse_args(words[:1])
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`looopctl --help` lists them"
        raise UsageError(f"there is no verb {verb!r}", hint=hint)
    args, command = _parse(verb, words[1:]), load_command(verb)
    code = command.run(args, Context())
    if command.abrupt and program:
        leave(code)
    return code


def report(error: LooopError, as_json: bool) -> None:
    """An error on stderr, as words or as the JSON object scripts can tell apart."""
    if as_json:
        hint = error.hint and " ".join(error.hint.split())
        record = {"error": error.name, "message": error.message, "hint": hint, "exit": int(error.code)}
        print(json.dumps(record), file=sys.stderr)
    elif error.hint and error.hint.startswith("usage: "):  # the parser's
        print(f"{error.hint}{error.message}", file=sys.stderr)
    else:
        print(f"looopctl: {error}", file=sys.stderr)
