"""Patients for training, validation and test: no patient is in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastseg.training.errors import TrainingError

#: Shares of training, validation and test, from paper F.
SHARES = (0.85, 0.1125, 0.0375)


@dataclass(frozen=True)
class Split:
    """Names of patients, each list sorted."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def as_dict(self) -> dict[str, list[str]]:
        """Lists, which JSON holds."""
        return {part: list(getattr(self, part)) for part in ("train", "validation", "test")}


def split(
    patients: Sequence[str], *, seed: int = 0, shares: Sequence[float] = SHARES, folds: int = 0, fold: int = 0
) -> Split:
    """The same patients and the same seed give the same split, in whatever order they come.

    Args:
        patients: each counts once, however often it is named.
        seed: of the order in which they are dealt out.
        shares: of training, validation and test; validation has at least one patient. Not used with ``folds``.
        folds: split into so many parts of about the same size; 0: by ``shares``.
        fold: which of the parts is the validation, from 0; there is no test then.

    Raises:
        TrainingError: too few patients.
        ValueError: shares that are negative or do not add up to 1, or a fold that is none.
    """
    names = sorted(set(patients))
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    if folds:
        if folds < 2 or not 0 <= fold < folds:
            raise ValueError(
                f"fold is {fold} of {folds} folds, expected at least 2 folds and a fold from 0 to folds - 1"
            )
        if len(names) < folds:
            raise TrainingError(f"{len(names)} patients, expected at least {folds}, one for each fold")
        held_out = order[fold::folds]
        return Split(tuple(sorted(set(names) - set(held_out))), tuple(sorted(held_out)), ())
    if len(shares) != 3 or min(shares) < 0 or not np.isclose(sum(shares), 1) or shares[0] == 0:
        raise ValueError(f"shares is {tuple(shares)}, expected three numbers >= 0 that add up to 1")
    if len(names) < 2:
        raise TrainingError(f"{len(names)} patient, expected at least 2: one to train on and one to validate on")
    validation = max(1, round(shares[1] * len(names)))
    test = min(round(shares[2] * len(names)), len(names) - validation - 1)
    parts = order[:validation], order[validation : validation + test], order[validation + test :]
    validation_names, test_names, train_names = (tuple(sorted(part)) for part in parts)
    return Split(train_names, validation_names, test_names)
