"""Two processes on the CPU: equal weights on both, and the Dice that one process finds for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning_fabric")
pytest.importorskip("monai")
pytest.importorskip("safetensors")
pytest.importorskip("PIL")
pytest.importorskip("nibabel")

from fastseg.models import weights
from fastseg.training.checkpoint import BEST, LAST
from fastseg.training.losses import default_loss
from fastseg.training.validation import validate
from tests.training.squares import write_pictures

# Runs the command, and then keeps the weights and the validation images of this process.
_SCRIPT = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from fastseg.cli.main import main
from fastseg.training import loop

kept = {}

def validate(network, batches, *others, **options):
    kept["network"] = network
    kept["held_out"] = [(images.clone(), target.clone()) for images, target in batches]
    return original(network, batches, *others, **options)

original, loop.validate = loop.validate, validate
code = main(sys.argv[2:])
state = {key: value.clone() for key, value in kept["network"].state_dict().items()}
torch.save({"state": state, "held_out": kept["held_out"]}, Path(sys.argv[1]) / f"rank{os.environ['RANK']}.pt")
sys.exit(code)
"""


def test_torchrun(tmp_path: Path) -> None:
    data, out = write_pictures(tmp_path / "data", patients=8, slices=3), tmp_path / "run"
    (tmp_path / "script.py").write_text(_SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = [
        "train",
        "--network",
        "resunet",
        "--set",
        "widths=4,8",
        "--data",
        str(data),
        "-o",
        str(out),
        "--epochs",
        "2",
    ]
    options += ["--batch-size", "2", "--accumulate", "2", "--workers", "0", "--device", "cpu", "--folds", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path), *options],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "2 processes" in done.stdout and done.stdout.count("best Dice") == 1  # one of them speaks

    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    saved = torch.load(out / LAST, weights_only=True)
    assert first["state"].keys() == second["state"].keys() == saved["model"].keys()
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]) and torch.equal(value, saved["model"][key]), key

    # 9 images in batches of 2: three batches for one process, two for the other, and no image in both.
    counts = [sum(len(images) for images, _ in part["held_out"]) for part in (first, second)]
    assert sorted(counts) == [4, 5]
    network, facts = weights.load_network(out / BEST)
    held_out = [*first["held_out"], *second["held_out"]]
    scores = validate(network, held_out, default_loss(network), 1)
    epochs = saved["history"]["epochs"]
    best = max(epochs, key=lambda epoch: epoch["dice"])
    assert scores.dice == best["dice"] == facts["dice"]["lesion"]
    assert scores.loss == pytest.approx(best["validation_loss"], rel=1e-6)
