"""``fastseg stereo``: a pair to maps, cloud, mesh and JSON, all or nothing, and one sentence for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastseg.cli import errors
from fastseg.cli.main import main
from fastseg.cli.options import stereo as options
from fastseg.cli.options.types import memory
from fastseg.stereo import PRESETS, StereoMatcher, evaluate_disparity, point_cloud, rendered_pair, surface_mesh
from tests.support import data_file

image = pytest.importorskip("PIL.Image")
matplotlib = pytest.importorskip("matplotlib")
trimesh = pytest.importorskip("trimesh")
pytest.importorskip("yaml")

from fastseg.io import load_disparity, load_image, save_image  # noqa: E402 - needs Pillow

PAIR = rendered_pair(48, 72, samples=1, doffs=1.5)
KNOWN = PAIR.calibration
LEFT = np.ascontiguousarray(np.moveaxis(PAIR.left, 0, -1))
RIGHT = np.ascontiguousarray(np.moveaxis(PAIR.right, 0, -1))
NUMBERS = ["--focal", str(KNOWN.focal_length), "--baseline", str(KNOWN.baseline), "--doffs", "1.5"]
MOST = str(KNOWN.max_disparity)
MAPS = ["confidence.png", "disparity.pfm", "disparity.png", "stereo.json", "valid.png"]
SPACE = ["cloud.ply", "depth.npy", "depth.pfm", "depth.png", "mesh.ply"]


def calib(path: Path, *, width: int = 72, ndisp: str = f"ndisp={MOST}") -> None:
    f, cx, cy = KNOWN.focal_length, KNOWN.cx, KNOWN.cy
    path.write_text(
        f"cam0=[{f} 0 {cx}; 0 {f} {cy}; 0 0 1]\ncam1=[{f} 0 {cx + 1.5}; 0 {f} {cy}; 0 0 1]\ndoffs=1.5\n"
        f"baseline={KNOWN.baseline}\nwidth={width}\nheight=48\n{ndisp}\n"
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the pair and its calibration."""
    monkeypatch.chdir(tmp_path)
    save_image("left.png", LEFT)
    save_image("right.png", RIGHT)
    calib(Path("calib.txt"))
    return tmp_path


def stereo(*options: str, pair: tuple[str, str] = ("left.png", "right.png")) -> int:
    return main(["stereo", *pair, "-o", "out", *options])


def names(folder: str = "out") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def facts() -> dict:
    return json.loads(Path("out/stereo.json").read_text())


def matched(preset: str = "accurate", **options: int) -> object:
    return StereoMatcher.preset(preset, **{"max_disparity": KNOWN.max_disparity, **options}).match(LEFT, RIGHT)


def test_everything_with_a_calibration(capsys: pytest.CaptureFixture[str]) -> None:
    assert stereo("--calib", "calib.txt") == 0
    assert names() == sorted(MAPS + SPACE)
    found = matched()
    np.testing.assert_array_equal(load_disparity("out/disparity.pfm"), found.disparity)
    np.testing.assert_array_equal(load_image("out/valid.png"), found.valid * np.uint8(255))
    np.testing.assert_allclose(load_image("out/confidence.png") / 65535, found.confidence, atol=0.51 / 65535)
    depth = KNOWN.focal_length * KNOWN.baseline / (found.disparity + 1.5)
    depth[~found.valid] = np.nan
    np.testing.assert_allclose(np.load("out/depth.npy"), depth, rtol=1e-6)
    np.testing.assert_array_equal(load_disparity("out/depth.pfm"), np.load("out/depth.npy"))
    np.testing.assert_allclose(load_disparity("out/depth.png", scale=10_000), depth, atol=0.51e-4)
    points = KNOWN.triangulate(found.disparity)
    cloud, mesh = point_cloud(points, LEFT, found.valid), surface_mesh(points, LEFT, found.valid)
    read = trimesh.load("out/cloud.ply")
    np.testing.assert_array_equal(read.vertices, cloud.points)
    np.testing.assert_array_equal(read.colors[:, :3], cloud.colors)
    read = trimesh.load("out/mesh.ply", process=False)
    np.testing.assert_array_equal(read.vertices, mesh.vertices)
    np.testing.assert_array_equal(read.faces, mesh.faces)
    np.testing.assert_array_equal(read.visual.vertex_colors[:, :3], mesh.colors)

    said, told = facts(), capsys.readouterr().out
    assert said["files"] == [*(name for name in sorted(MAPS + SPACE) if name != "stereo.json"), "stereo.json"]
    assert (said["points"], said["triangles"]) == (len(cloud.points), len(mesh.faces))
    assert said["valid"] == pytest.approx(found.valid.mean())
    assert said["disparity"] == [found.disparity[found.valid].min(), found.disparity[found.valid].max()]
    assert said["depth"]["span"] == pytest.approx([np.nanmin(depth), np.nanmax(depth)])
    assert said["depth"]["depth_png_scale"] == 10_000
    assert said["calibration"]["doffs"] == 1.5 and said["options"]["preset"] == "accurate"
    assert said["options"]["max_disparity"] == KNOWN.max_disparity
    assert (said["images"]["height"], said["images"]["width"]) == (48, 72)
    assert said["threads"] == torch.get_num_threads() and said["versions"]["torch"] == torch.__version__
    *stages, total = said["seconds"].items()
    assert [name for name, _ in stages] == ["reading", *found.seconds, "points and surface", "writing"]
    assert total == ("total", pytest.approx(sum(seconds for _, seconds in stages)))
    for words in ("72 x 48, uint8 colours", f"disparities 0 to {KNOWN.max_disparity - 1}", "cloud.ply", "sub-pixel"):
        assert words in told


def test_nothing_in_space_without_a_calibration(capsys: pytest.CaptureFixture[str]) -> None:
    assert stereo("--max-disparity", MOST) == 0
    assert names() == MAPS
    lines = [line for line in capsys.readouterr().out.splitlines() if "calibration" in line]
    assert len(lines) == 1 and "give --calib or --focal and --baseline" in lines[0]
    assert facts()["calibration"] is None and facts()["depth"] is None


def test_a_second_run_leaves_nothing_of_the_first() -> None:
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    assert stereo("--calib", "calib.txt") == 0
    assert stereo("--calib", "calib.txt", "--no-mesh") == 0
    assert set(names()) == {*MAPS, *SPACE, "notes.txt"} - {"mesh.ply"}
    assert stereo("--max-disparity", MOST) == 0
    assert set(names()) == {*MAPS, "notes.txt"}


def test_a_calibration_in_numbers() -> None:
    assert stereo("--calib", "calib.txt") == 0
    depth, mesh = np.load("out/depth.npy"), Path("out/mesh.ply").read_bytes()
    # The pair's principal point is the middle of the image, which is what is taken where none is given.
    assert stereo(*NUMBERS, "--max-disparity", MOST) == 0
    np.testing.assert_array_equal(np.load("out/depth.npy"), depth)
    assert Path("out/mesh.ply").read_bytes() == mesh
    assert stereo(*NUMBERS, "--max-disparity", MOST, "--cx", "30", "--cy", "-2") == 0
    places = trimesh.load("out/cloud.ply").vertices
    rows, columns = np.nonzero(load_image("out/valid.png"))
    np.testing.assert_allclose(places[:, 0], (columns - 30) * places[:, 2] / KNOWN.focal_length, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(places[:, 1], (rows + 2) * places[:, 2] / KNOWN.focal_length, rtol=1e-5, atol=1e-6)


def test_filled_pixels_with_dense() -> None:
    assert stereo("--calib", "calib.txt", "--dense") == 0
    assert np.isfinite(np.load("out/depth.npy")).all() and facts()["valid"] < 1
    assert len(trimesh.load("out/cloud.ply").vertices) == 48 * 72


def test_options_of_cloud_and_mesh() -> None:
    assert stereo("--calib", "calib.txt", "--no-mesh", "--max-depth", "2.5") == 0
    assert "mesh.ply" not in names() and facts()["triangles"] == 0
    points = trimesh.load("out/cloud.ply").vertices
    assert points[:, 2].max() <= 2.5 < np.nanmax(np.load("out/depth.npy"))
    assert stereo("--calib", "calib.txt", "--max-depth", "2.5", "--y-up") == 0
    np.testing.assert_array_equal(trimesh.load("out/cloud.ply").vertices, points * (1, -1, -1))
    few = facts()["triangles"]
    assert stereo("--calib", "calib.txt", "--max-depth", "2.5", "--max-depth-step", "9") == 0
    assert facts()["triangles"] > few > 0


def test_no_cloud_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert stereo("--calib", "calib.txt", "--max-depth", "0.01") == 0
    assert not {"cloud.ply", "mesh.ply"} & set(names())
    assert capsys.readouterr().out.count("none: no pixels to make it of") == 2


def test_the_units_of_the_depth_image() -> None:
    """Those asked for; what does not fit is unknown."""
    assert stereo("--calib", "calib.txt", "--depth-scale", "20000") == 0
    depth, stored = np.load("out/depth.npy"), load_image("out/depth.png")
    fits = depth <= 65535 / 20000
    assert 0 < fits.sum() < np.isfinite(depth).sum()
    np.testing.assert_array_equal(stored > 0, fits)
    np.testing.assert_array_equal(stored[fits], np.rint(depth[fits].astype(np.float64) * 20000))
    assert stereo("--calib", "calib.txt", "--depth-scale", "0.3") == 0
    np.testing.assert_array_equal(load_image("out/depth.png") > 0, np.load("out/depth.npy") * 0.3 >= 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset: str) -> None:
    assert stereo("--max-disparity", MOST, "--preset", preset, "--memory-limit", "1M") == 0
    np.testing.assert_array_equal(load_disparity("out/disparity.pfm"), matched(preset).disparity)
    assert facts()["options"]["memory_limit"] == 1 << 20


def test_the_parser_knows_every_preset() -> None:
    """It has a list of its own, because --help imports nothing."""
    assert tuple(PRESETS) == options.PRESETS


def test_greys_and_a_range_that_starts_elsewhere() -> None:
    """16 bits in one image file, and disparities below zero after the right image was moved to the left."""
    greys = [
        np.ascontiguousarray(np.roll(side[..., 1], by, 1)).astype(np.uint16) * 257
        for side, by in ((LEFT, 0), (RIGHT, 9))
    ]
    for name, side in zip(("left.tiff", "right.tiff"), greys, strict=True):
        save_image(name, side)
    options = ["--min-disparity", "-9", "--max-disparity", "4", "--no-check", *NUMBERS[:4], "--doffs", "10.5"]
    assert stereo(*options, pair=("left.tiff", "right.tiff")) == 0
    found = StereoMatcher(max_disparity=4, min_disparity=-9, check_input=False).match(*greys)
    np.testing.assert_array_equal(load_disparity("out/disparity.pfm"), found.disparity)
    assert load_disparity("out/disparity.pfm").min() < 0
    colours = trimesh.load("out/cloud.ply").colors[:, :3]
    np.testing.assert_array_equal(colours, np.repeat(LEFT[found.valid][:, 1:2], 3, axis=1))


def test_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        assert stereo("--max-disparity", MOST, "--threads", "1") == 0
        one = Path("out/disparity.pfm").read_bytes()
        assert facts()["threads"] == torch.get_num_threads() == 1
        assert stereo("--max-disparity", MOST, "--threads", "3") == 0
        assert Path("out/disparity.pfm").read_bytes() == one
    finally:
        torch.set_num_threads(before)


def test_colours_and_their_bar() -> None:
    """Pixel for pixel the colours of the disparities; the bar beside them holds the same colours, near ones on top."""
    assert stereo("--max-disparity", MOST) == 0
    shown, found = load_image("out/disparity.png"), matched()
    assert shown.shape == (48, 72 + 64, 3)
    low, high = np.percentile(found.disparity[found.valid], (0.5, 99.5))
    turbo = matplotlib.colormaps["turbo"]
    expected = turbo((found.disparity.astype(np.float64) - low) / (high - low), bytes=True)[..., :3]
    assert (np.abs(shown[:, :72].astype(int) - expected) <= 4).all()  # half a step of the map's 256
    column = shown[6:-6, 72 + 64 // 4].astype(int)
    places = [
        int(np.abs(np.array(turbo(np.arange(256), bytes=True))[:, :3] - pixel).sum(1).argmin()) for pixel in column
    ]
    assert places == sorted(places, reverse=True) and places[0] > 240 and places[-1] < 15


def test_a_pair_of_middlebury(capsys: pytest.CaptureFixture[str]) -> None:
    pair = data_file("stereo/midd2014_motorcycle_q")
    numbers = ["--focal", "994.978", "--baseline", "193.001", "--doffs", "31.086", "--cx", "311.193", "--cy", "254.877"]
    files = str(pair / "motorcycle_left.png"), str(pair / "motorcycle_right.png")
    assert stereo(*numbers, "--max-disparity", "70", "--preset", "fast", pair=files) == 0
    truth = load_disparity(pair / "motorcycle_disp.npz")
    known = np.isfinite(truth)
    scores = evaluate_disparity(load_disparity("out/disparity.pfm"), truth)["known"]
    assert scores.bad[2] < 0.1
    depth = np.load("out/depth.npy")
    true_depth = 994.978 * 193.001 / (truth + 31.086)
    both = known & np.isfinite(depth)
    assert np.median(np.abs(depth[both] / true_depth[both] - 1)) < 0.01


REFUSED = {
    "no file": (["nowhere.png", "right.png", "--max-disparity", MOST], "nowhere.png: there is no such file"),
    "no image": (["left.png", "calib.txt", "--max-disparity", MOST], "calib.txt: not an image that can be read"),
    "sizes": (
        ["left.png", "small.png", "--max-disparity", MOST],
        "small.png: 71 x 48, uint8 colours, expected the same",
    ),
    "colours": (
        ["left.png", "grey.png", "--max-disparity", MOST],
        "grey.png: 72 x 48, uint8 greys, expected the same as",
    ),
    "too far": (["--max-disparity", "73"], "--max-disparity 73: expected at most 72, the width of left.png"),
    "too far back": (["--max-disparity", "9", "--min-disparity", "-72"], "--min-disparity -72: expected more than -72"),
    "empty range": (["--max-disparity", "9", "--min-disparity", "9"], "--min-disparity 9: expected less than"),
    "range of the file": (["--calib", "calib.txt", "--min-disparity", "70"], "the largest disparity"),
    "no range": ([], "--max-disparity is missing: disparities are below it"),
    "no range in the file": (
        ["--calib", "endless.txt"],
        "--max-disparity is missing, and the calibration has no ndisp",
    ),
    "no range with numbers": (NUMBERS, "--max-disparity is missing, and the calibration has no ndisp"),
    "too much in the file": (["--calib", "many.txt"], "the calibration's ndisp 290: expected at most 72"),
    "no room": (["--calib", "calib.txt", "--depth-scale", "1e-9"], "--depth-scale 1e-09: depths from"),
    "endless depth": (
        ["--max-disparity", MOST, "--focal", "1e300", "--baseline", "1e300"],
        "focal length 1e+300 and baseline 1e+300: their product over a disparity is a depth of inf",
    ),
    "half": (["--max-disparity", MOST, "--focal", "9"], "--focal needs --baseline, too"),
    "other half": (["--max-disparity", MOST, "--baseline", "9"], "--baseline needs --focal, too"),
    "doffs alone": (["--max-disparity", MOST, "--doffs", "0"], "--doffs needs --focal and --baseline, too"),
    "twice": (["--calib", "calib.txt", "--cx", "9"], "--calib and --cx exclude each other"),
    "broken": (["--calib", "left.png"], "left.png: not a text file"),
    "no calibration": (["--calib", "nowhere.txt"], "nowhere.txt: there is no such file"),
    "other images": (["--calib", "wide.txt"], "is for images of 144 x 48, but left.png has 72 x 48"),
    "mesh": (["--max-disparity", MOST, "--mesh"], "--mesh needs a calibration: give --calib or --focal and --baseline"),
    "cloud": (["--max-disparity", MOST, "--cloud"], "--cloud needs a calibration"),
    "depth": (["--max-disparity", MOST, "--max-depth", "3"], "--max-depth needs a calibration"),
    "dense": (["--max-disparity", MOST, "--dense"], "--dense needs a calibration"),
    "memory": (["--max-disparity", MOST, "--memory-limit", "10K"], "memory_limit"),
    "swapped": (
        ["big_right.png", "big_left.png", "--max-disparity", "40"],
        "is meant (--min-disparity; --no-check leaves",
    ),
    "output": (["--max-disparity", MOST, "-o", "left.png"], "left.png: File exists, expected a folder"),
    "output within": (["--max-disparity", MOST, "-o", "left.png/a/b"], "left.png: File exists, expected a folder"),
}


def big_pair() -> None:
    """One that is large enough for a look at it."""
    big = rendered_pair(120, 160, samples=1)
    save_image("big_left.png", np.moveaxis(big.left, 0, -1))
    save_image("big_right.png", np.moveaxis(big.right, 0, -1))


def test_swapped_views_where_nobody_looks() -> None:
    """The same files are refused below."""
    big_pair()
    assert stereo("--max-disparity", "40", "--no-check", pair=("big_right.png", "big_left.png")) == 0


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_sentence_and_write_nothing(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, words = REFUSED[case]
    save_image("small.png", RIGHT[:, :71])
    save_image("grey.png", RIGHT[..., 1])
    calib(Path("endless.txt"), ndisp="")
    calib(Path("many.txt"), ndisp="ndisp=290")
    calib(Path("wide.txt"), width=144)
    if case == "swapped":
        big_pair()
    before = names(".")
    pair = [] if options[:1] and options[0].endswith(".png") else ["left.png", "right.png"]
    assert main(["stereo", "-o", "out", *pair, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastseg stereo: ") and words in error, error
    assert error.count("\n") == 1 and "Traceback" not in error
    assert names(".") == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "the following arguments are required: LEFT, RIGHT"),
        (["a", "b", "--max-disparity", "0"], "0 is not positive"),
        (["a", "b", "--min-disparity", "1.5"], "'1.5' is not a whole number"),
        (["a", "b", "--preset", "slow"], "invalid choice: 'slow'"),
        (["a", "b", "--doffs", "nan"], "'nan' is not a finite number"),
        (["a", "b", "--focal", "0"], "'0' is not a finite number above zero"),
        (["a", "b", "--memory-limit", "1T"], "'1T' is not a size such as 512M or 1.5G"),
        (["a", "b", "--memory-limit", "-1G"], "expected one argument"),
    ],
)
def test_the_parser_refuses(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["stereo", *options])
    assert exit_code.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("text", "size"), [("1G", 1 << 30), ("1.5m", 3 << 19), ("2K", 2048), ("77", 77)])
def test_sizes_of_memory(text: str, size: int) -> None:
    assert memory(text) == size


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert stereo("--max-disparity", MOST, "--device", "cuda") == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err


def test_all_or_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A disk that is full at the last file leaves what was there before, and no new folder."""

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device", "mesh.ply")

    monkeypatch.setattr("fastseg.stereo.Mesh.save", full)
    assert stereo("--calib", "calib.txt") == 2
    assert capsys.readouterr().err.endswith("fastseg stereo: mesh.ply: No space left on device\n")
    assert not Path("out").exists()
    Path("out").mkdir()
    Path("out/disparity.pfm").write_text("of yesterday")
    assert stereo("--calib", "calib.txt") == 2
    assert names() == ["disparity.pfm"] and Path("out/disparity.pfm").read_text() == "of yesterday"


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(errors, "installed", lambda module: module not in ("trimesh", "PIL"))
    assert stereo("--max-disparity", MOST) == 2
    error = capsys.readouterr().err
    assert error == 'fastseg stereo: PIL, trimesh are not installed: pip install "fastseg-kernels[stereo]"\n'


def test_progress_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert stereo("--max-disparity", MOST) == 0
    lines = capsys.readouterr().err.splitlines()
    assert 1 < len(lines) <= 4 and lines[-1] == "matching: 100% (refine)"


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert stereo("--max-disparity", MOST) == 0
    error = capsys.readouterr().err
    assert "matching: refine" in error and "100%" in error
