"""Stereo matching: time and error of the presets beside OpenCV's, on Middlebury's pairs and a rendered one."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.conftest import rounds_for
from benchmarks.stereo_pairs import PAIRS, pair_of

peers = pytest.importorskip("benchmarks.stereo_peers", reason="needs opencv-contrib-python-headless")


@pytest.mark.parametrize("peer", peers.STEREO_PEERS)
@pytest.mark.parametrize("name", PAIRS)
def test_pair(benchmark, name, peer):
    pair = pair_of(name)
    ready = peers.STEREO_PEERS[peer](pair)
    stages = []

    def match() -> object:
        found = ready.match()
        stages.append(ready.seconds(found))
        return found

    rounds = rounds_for(match, 9)
    benchmark.group = f"{name} {pair.shape}"
    found = benchmark.pedantic(match, rounds=rounds)
    seconds = {stage: statistics.median(each[stage] for each in stages[-rounds:]) for stage in stages[0]}
    scores = pair.scores(ready.dense(found)).as_dict()["regions"]
    benchmark.extra_info.update(
        case=name, shape=pair.shape, peer=peer, family="stereo", stereo={"regions": scores, "seconds": seconds}
    )
