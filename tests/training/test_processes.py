"""Two processes on the CPU: equal weights on both, and the Dice that one process finds for them."""

from __future__ import annotations

import copy
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

from fastseg.models import create, weights
from fastseg.training.batches import EpochOrder
from fastseg.training.checkpoint import BEST, LAST
from fastseg.training.losses import default_loss
from fastseg.training.validation import validate
from tests.training.squares import Squares, small_recipe, write_pictures

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


# Two runs by fit: one that hardly learns, and one in which a single process meets an image that is not finite.
_RUNS = """
import sys
from argparse import Namespace
from pathlib import Path
import torch
torch.set_num_threads(1)
from fastseg.cli.train_run import _fabric
from fastseg.training import loop
from fastseg.training.errors import TrainingError
from tests.training.squares import Squares, small_recipe

folder, said = Path(sys.argv[1]), None
loop.save_curve = lambda history, path, title: None
recipe = small_recipe(epochs=1, learning_rate=1e-12, batch_size=2)
fabric = _fabric(Namespace(device="cpu", devices=1), recipe)
kept, original = [], loop.validate

def validate(network, *others, **options):
    kept.append({key: value.clone() for key, value in network.state_dict().items()})
    return original(network, *others, **options)

loop.validate = validate
train = [Squares(12, 0)[index] for index in range(12)]
loop.fit(recipe, train, Squares(4, 1), folder=folder / "even", fabric=fabric)
image, mask = train[5]
spoiled = [*train[:5], (image * float("inf"), mask), *train[6:]]
try:
    recipe = small_recipe(epochs=1, batch_size=2, accumulation=2)
    loop.fit(recipe, spoiled, Squares(4, 1), folder=folder / "spoiled", fabric=fabric)
except TrainingError as error:
    said = str(error)
torch.save({"state": kept[0], "said": said}, folder / f"rank{fabric.global_rank}.pt")
"""


def run_two(tmp_path: Path, script: str, *options: str) -> str:
    """Two processes of a script, whose first argument is the folder; what they print."""
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path), *options],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


def test_statistics_are_the_mean_and_all_refuse_what_one_cannot_use(tmp_path: Path) -> None:
    run_two(tmp_path, _RUNS)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]

    recipe = small_recipe(batch_size=2)
    torch.manual_seed(recipe.seed)
    network = create(recipe.network, **recipe.arguments)
    data, alone = Squares(12, 0), []
    for rank in (0, 1):
        gathered = copy.deepcopy(network).train()
        order = EpochOrder(data, 2, rank, seed=recipe.seed)  # type: ignore[arg-type]
        order.begin(1)
        with torch.no_grad():
            for batch in torch.tensor(list(order)).split(2):
                gathered(torch.stack([data[int(index)][0] for index in batch]))
        alone.append(dict(gathered.named_buffers()))
    statistics = [key for key, value in alone[0].items() if value.is_floating_point()]
    assert any(not torch.allclose(alone[0][key], alone[1][key], rtol=1e-2) for key in statistics)
    for key in statistics:
        assert torch.equal(ranks[0]["state"][key], ranks[1]["state"][key])
        mean = (alone[0][key] + alone[1][key]) / 2
        torch.testing.assert_close(ranks[0]["state"][key], mean, rtol=1e-4, atol=1e-5)

    assert ranks[0]["said"] == ranks[1]["said"]
    assert "the loss is nan in step" in ranks[0]["said"] and "of epoch 1" in ranks[0]["said"]


def test_torchrun(tmp_path: Path) -> None:
    data, out = write_pictures(tmp_path / "data", patients=8, slices=3), tmp_path / "run"
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
    said = run_two(tmp_path, _SCRIPT, *options)
    assert "2 processes" in said and said.count("best Dice") == 1  # one of them speaks

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
