"""What the training commands have in common: arguments, errors in one sentence, and exit codes."""

import argparse
import sys

import strategy as strategies
from config import ConfigError, RunError
from config import add_arguments as add_config_arguments
from device_loop import Stopped
from paths import any_path


def make_parser(description: str, smoke: str) -> argparse.ArgumentParser:
    """A parser of the arguments that every training command takes.

    Args:
        description: The script's own, the text of its help.
        smoke: What `--smoke` does.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument("--model_dir", type=any_path, required=True, help="the folder of the run, created when missing")
    parser.add_argument(
        "--allow_config_change", action="store_true", help="continue a run in --model_dir with another config"
    )
    parser.add_argument("--smoke", action="store_true", help=f"try the config: {smoke}")
    strategies.add_arguments(parser)
    return parser


def exit_code_of(name: str, train, arguments: argparse.Namespace) -> int:
    """Calls `train` with the arguments; says what went wrong in one sentence.

    Returns:
        The exit code: 0; 2 for input that cannot be used; 1 for a run that cannot go on; when stopped, 130 by Ctrl-C
        and 75 by SIGTERM.
    """
    try:
        train(arguments)
    except (ConfigError, RunError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except (KeyboardInterrupt, Stopped) as stop:
        print(f"\n{name}: interrupted; the same command continues from the newest checkpoint.", file=sys.stderr)
        return getattr(stop, "exit_code", 130)
    return 0
