"""The `copo` command. Errors that are the user's to mend are one sentence on stderr and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from copo_algos.config import TrainConfig

NEEDS_EXTRA = (
    'copo {} needs the training extra, and {!r} is missing; install it in the checkout with: pip install ".[train]"'
)
USAGE = """usage: copo {train,evaluate,watch} ...

  copo train ALGORITHM --scene S      train a population; writes a run folder
  copo evaluate RUN_OR_FOLDER         drive a trained policy and score it
  copo watch RUN                      a video of it, seen from above or in 3D, or a window

copo COMMAND --help explains each. copo --version says which version this is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = arguments[0] if arguments else ""
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    if command == "--version":
        from copo_algos import __version__

        print(f"copo {__version__}")
        return 0
    if command not in COMMANDS:
        print(
            f"unknown command {command!r}; choose train, evaluate or watch\n" if command else "",
            end="",
            file=sys.stderr,
        )
        print(USAGE, file=sys.stderr)
        return 2
    try:
        return _run(command, arguments[1:])
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package.startswith("copo"):
            raise
        print(NEEDS_EXTRA.format(command, package), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while modules are still being imported
        print(f"copo {command}: stopped", file=sys.stderr)
        return 130


def _run(command: str, arguments: list[str]) -> int:
    from copo_algos.command import exit_code

    return exit_code(f"copo {command}", lambda: COMMANDS[command](arguments))


def train_config(arguments: Sequence[str]) -> TrainConfig:
    """The settings that the words after `copo train` stand for.

    Raises:
        SystemExit: they stand for none, which has been said on stderr; or for --help.
    """
    import tyro

    from copo_algos.config import PRESETS, TrainConfig, preset, with_values
    from copo_algos.run_folder import settings_of

    def parse(default: TrainConfig) -> TrainConfig:
        return tyro.cli(
            TrainConfig, args=arguments, prog="copo train", default=default, config=(tyro.conf.OmitArgPrefixes,)
        )

    name = _preset_name(arguments)
    # An unknown name goes to the parser, whose message lists the known ones.
    config = parse(preset(name if name in PRESETS else "default", algorithm=tyro.MISSING))
    if not config.resume or name:
        return config
    # What is not said stays as the run was made with.
    before = {**settings_of(config.folder()), "algorithm": tyro.MISSING}
    return parse(with_values(TrainConfig(tyro.MISSING), before))


def _train(arguments: list[str]) -> None:
    from copo_algos.train import train

    train(train_config(arguments))


def _evaluate(arguments: list[str]) -> None:
    import tyro

    from copo_algos.evaluate import EvaluateConfig, evaluate

    evaluate(tyro.cli(EvaluateConfig, args=arguments, prog="copo evaluate"))


def _watch(arguments: list[str]) -> None:
    import tyro

    from copo_algos.watch import WatchConfig, show, watch

    config = tyro.cli(WatchConfig, args=_follow_auto(arguments), prog="copo watch")
    (show if config.window else watch)(config)


COMMANDS = {"train": _train, "evaluate": _evaluate, "watch": _watch}


def _follow_auto(arguments: list[str]) -> list[str]:
    """--follow without a word after it follows whom it likes."""
    following = [*arguments, "--"][1:]
    return [
        word
        for argument, after in zip(arguments, following, strict=True)
        for word in ([argument, "auto"] if argument == "--follow" and after.startswith("-") else [argument])
    ]


def _preset_name(arguments: Sequence[str]) -> str:
    """The value of the last --preset, which is the one that the parser takes: it decides the defaults of all others.
    Empty where there is none."""
    name = ""
    for position, argument in enumerate(arguments):
        if argument == "--preset" and position + 1 < len(arguments):
            name = arguments[position + 1]
        if argument.startswith("--preset="):
            name = argument.partition("=")[2]
    return name


if __name__ == "__main__":
    sys.exit(main())
