"""``python -m fastseg.integrations.nnunet``: the folder of the trainers; with a command of nnU-Net, that command."""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint, entry_points

from fastseg.integrations.nnunet.predictor import accelerated_predictors
from fastseg.integrations.nnunet.trainer import trainers_folder

FOLDERS = "nnUNet_extTrainer"  # the environment variable

USAGE = """usage: python -m fastseg.integrations.nnunet
         prints the folder of fastseg's trainers, for the environment variable nnUNet_extTrainer
       python -m fastseg.integrations.nnunet COMMAND ...
         runs a command of nnU-Net that finds these trainers and predicts with fused layers"""


def main(arguments: list[str]) -> int:
    if not arguments:
        print(trainers_folder())
        return 0
    name = arguments[0]
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    commands = nnunet_commands()
    if name not in commands:
        print(f"{USAGE}\n\nCOMMAND is {name!r}, expected one of {', '.join(sorted(commands))}", file=sys.stderr)
        return 2
    others = os.environ.get(FOLDERS)
    os.environ[FOLDERS] = os.pathsep.join(filter(None, (others, str(trainers_folder()))))
    sys.argv = arguments
    with accelerated_predictors():
        commands[name].load()()
    return 0


def nnunet_commands() -> dict[str, EntryPoint]:
    """The commands that nnU-Net installs."""
    scripts = entry_points(group="console_scripts")
    return {script.name: script for script in scripts if script.value.startswith("nnunetv2.")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
