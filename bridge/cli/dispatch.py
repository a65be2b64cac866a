"""Runs a command of the command line, and gives each error its exit code and message."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from bridge.cli.errors import FAILED, PROGRAM, USAGE_ERROR, WrongUsage, print_error
from bridge.cli.parser import build_parser
from bridge.core.errors import BadSetting, BridgeError


def run(arguments: Sequence[str]) -> int:  # noqa: PLR0911  one return for each way to end
    """Runs a command and returns its exit code. Every error is a sentence on stderr.

    Only with `python -X dev` an unexpected error is raised, with its traceback.
    """
    parser = build_parser()
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        sentence = f"unrecognized arguments: {' '.join(unknown)}; see {PROGRAM} {args.command} --help"
        return print_error(sentence, USAGE_ERROR, args.command)
    if args.command is None:
        parser.error("a command is needed, such as demo or serve")
    if (mistake := _wrong_combination(args)) is not None:
        return print_error(f"{mistake}; see {PROGRAM} {args.command} --help", USAGE_ERROR, args.command)
    try:
        code: int = import_module(f"bridge.cli.{args.module}").run(args)
        sys.stdout.flush()
    except (BadSetting, WrongUsage) as error:
        return print_error(str(error), USAGE_ERROR, args.command)
    except BridgeError as error:
        return print_error(str(error), FAILED, args.command)
    except ModuleNotFoundError as error:
        extra = "; PostgreSQL needs: pip install 'amux-bridge[postgres]'" if error.name == "psycopg" else ""
        return print_error(f"the package {error.name} is not installed{extra}", FAILED, args.command)
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`). The interpreter flushes stdout at exit; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        sentence = f"unexpected {type(error).__name__}: {error} (python -X dev -m bridge ... shows the traceback)"
        return print_error(sentence, FAILED, args.command)
    return code


def _wrong_combination(args: argparse.Namespace) -> str | None:
    """Returns the rule that a combination of options breaks, if argparse cannot check it; None if there is none."""
    if args.command == "retry" and not args.dead and (args.since or args.until or args.host or args.dry_run):
        return "--since, --until, --host and --dry-run require --dead"
    if args.command == "listen":
        if args.pull and (args.task or args.port is not None):
            return "--pull receives no callbacks: use it without --task and --port"
        if not args.pull and (args.forward or args.cursor_file or args.after or args.app):
            return "--forward, --cursor-file, --after and --app require --pull"
    return None
