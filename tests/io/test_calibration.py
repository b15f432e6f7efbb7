"""Calibration files: Middlebury's numbers, OpenCV's own writer, and what is refused with which words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastseg.io import CalibrationError, load_calibration
from fastseg.stereo import RectifiedCalibration, triangulate

pytest.importorskip("yaml")

# Middlebury 2014, Motorcycle, in full size.
MOTORCYCLE = """cam0=[3979.911 0 1244.772; 0 3979.911 1019.507; 0 0 1]
cam1=[3979.911 0 1369.115; 0 3979.911 1019.507; 0 0 1]
doffs=124.343
baseline=193.001
width=2964
height=1988
ndisp=280
isint=0
vmin=31
vmax=257
dyavg=0.918
dymax=1.516
"""
F, CX, CY, B, DOFFS = 994.978, 311.193, 254.877, 193.001, 31.086
P1 = [[F, 0, CX, 0], [0, F, CY, 0], [0, 0, 1, 0]]
P2 = [[F, 0, CX + DOFFS, -F * B], [0, F, CY, 0], [0, 0, 1, 0]]
Q = [[1, 0, 0, -CX], [0, 1, 0, -CY], [0, 0, 0, F], [0, 0, 1 / B, DOFFS / B]]
# As OpenCV 3 and 4 write it, whose first line no YAML reader takes.
OLD_YAML = """%YAML:1.0
---
calibrationDate: "Sat Nov 21 16:40:00 2026"
image_width: 741
image_height: 500
R1: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 1., 0., 0., 0., 1., 0., 0., 0., 1. ]
P1: !!opencv-matrix
   rows: 3
   cols: 4
   dt: d
   data: [ 9.9497799999999995e+02, 0., 3.1119299999999998e+02, 0., 0.,
       9.9497799999999995e+02, 2.5487700000000001e+02, 0., 0., 0., 1., 0. ]
P2: !!opencv-matrix
   rows: 3
   cols: 4
   dt: d
   data: [ 9.9497799999999995e+02, 0., 3.4227899999999998e+02,
       -1.9203174897799999e+05, 0., 9.9497799999999995e+02,
       2.5487700000000001e+02, 0., 0., 0., 1., 0. ]
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def as_json(**values: object) -> str:
    return json.dumps(values)


def check_motorcycle(calibration: RectifiedCalibration) -> None:
    found = (calibration.focal_length, calibration.baseline, calibration.doffs, calibration.cx, calibration.cy)
    assert found == pytest.approx((F, B, DOFFS, CX, CY), rel=1e-9)


def test_middlebury(tmp_path: Path) -> None:
    calibration = load_calibration(written(tmp_path / "calib.txt", MOTORCYCLE))
    assert calibration == RectifiedCalibration(
        focal_length=3979.911,
        baseline=193.001,
        doffs=124.343,
        cx=1244.772,
        cy=1019.507,
        width=2964,
        height=1988,
        max_disparity=280,
    )


def test_middlebury_with_what_is_needed_alone(tmp_path: Path) -> None:
    """doffs follows from the cameras; Windows' line ends, a byte order mark and spaces do not matter."""
    lines = [f"  {line.replace('=', ' = ')} " for line in MOTORCYCLE.splitlines() if line[:3] in ("cam", "bas")]
    (tmp_path / "calib.txt").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    calibration = load_calibration(tmp_path / "calib.txt")
    assert calibration.doffs == pytest.approx(1369.115 - 1244.772)
    assert (calibration.cx, calibration.baseline, calibration.width) == (1244.772, 193.001, None)


def test_plain_text_needs_no_yaml(tmp_path: Path) -> None:
    for name, text in (("calib.txt", MOTORCYCLE), ("a.json", as_json(Q=Q))):
        code = (
            "import sys; sys.modules['yaml'] = None\n"
            f"from fastseg.io import load_calibration\nload_calibration({str(written(tmp_path / name, text))!r})"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def test_old_yaml(tmp_path: Path) -> None:
    calibration = load_calibration(written(tmp_path / "a.yml", OLD_YAML))
    check_motorcycle(calibration)
    assert (calibration.width, calibration.height, calibration.max_disparity) == (741, 500, None)


@pytest.mark.parametrize("values", [{"P1": P1, "P2": P2}, {"Q": Q}, {"P1": P1, "P2": P2, "Q": "not looked at"}])
def test_rows_in_json_and_yaml(tmp_path: Path, values: dict[str, object]) -> None:
    check_motorcycle(load_calibration(written(tmp_path / "a.json", as_json(**values))))
    plain = "\n".join(f"{key}: {json.dumps(value)}" for key, value in values.items())
    check_motorcycle(load_calibration(written(tmp_path / "a.yaml", plain)))


@pytest.mark.parametrize("ending", ["yml", "yaml", "json"])
@pytest.mark.parametrize("keys", [("P1", "P2"), ("Q",)])
@pytest.mark.parametrize("same_principal_point", [True, False])
def test_what_opencv_writes(tmp_path: Path, ending: str, keys: tuple[str, ...], same_principal_point: bool) -> None:
    """stereoRectify and FileStorage; points are those of reprojectImageTo3D."""
    cv2 = pytest.importorskip("cv2")
    left = np.array([[700.0, 0, 320], [0, 705, 240], [0, 0, 1]])
    right = np.array([[690.0, 0, 335], [0, 688, 236], [0, 0, 1]])
    turn = cv2.Rodrigues(np.array([0.01, -0.03, 0.005]))[0]
    shift = np.array([[-0.12], [0.002], [0.001]])
    flags = cv2.CALIB_ZERO_DISPARITY if same_principal_point else 0
    result = cv2.stereoRectify(left, np.zeros(5), right, np.zeros(5), (640, 480), turn, shift, flags=flags)
    matrices = dict(zip(("R1", "R2", "P1", "P2", "Q"), result[:5], strict=True))
    path = tmp_path / f"stereo.{ending}"
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for key in keys:
        storage.write(key, matrices[key])
    storage.write("image_width", 640)
    storage.write("image_height", 480)
    storage.release()
    calibration = load_calibration(path)
    assert (calibration.width, calibration.height) == (640, 480)
    assert calibration.baseline == pytest.approx(np.linalg.norm(shift))
    assert (abs(calibration.doffs) < 1e-9) == same_principal_point
    disparity = np.random.default_rng(0).uniform(20, 60, (480, 640)).astype(np.float32)
    expected = cv2.reprojectImageTo3D(disparity, matrices["Q"])
    np.testing.assert_allclose(calibration.triangulate(disparity), expected, rtol=1e-5, atol=1e-6)


def changed(row: int, column: int, value: float, matrix: list[list[float]]) -> list[list[float]]:
    result = [list(r) for r in matrix]
    result[row][column] = value
    return result


REFUSED = {
    "empty": ("", "the file is empty"),
    "prose": ("just text", "not a calibration: expected calib.txt, or YAML or JSON of OpenCV's FileStorage"),
    "list": ("[1, 2]", "not a calibration: expected"),
    "xml": ("<?xml version='1.0'?>\n<opencv_storage/>", "not a calibration: expected"),
    "broken json": ('{"P1": [', "broken JSON"),
    "broken yaml": ("P1: [1, 2\nP2: }", "neither calib.txt nor YAML nor JSON"),
    "no matrix": (as_json(R1=P1), "there is neither P1 and P2 nor Q, expected matrices of stereoRectify"),
    "P1 alone": (as_json(P1=P1), "there is no P2, expected a matrix of 3 x 4"),
    "P2 alone": (as_json(P2=P1), "there is no P1, expected a matrix of 3 x 4"),
    "wrong shape": (as_json(P1=P1[:2], P2=P2), "P1 is no matrix of 3 x 4"),
    "ragged": (as_json(P1=[[1] * 5, [1] * 4, [1] * 3], P2=P2), "P1 is no matrix of 3 x 4"),
    "no rows": (as_json(P1=[1] * 12, P2=P2), "P1 is no matrix of 3 x 4"),
    "lies about its shape": (as_json(Q={"rows": 4, "cols": 4, "data": [1, 2]}), "Q is no matrix of 4 x 4"),
    "text in it": (as_json(Q=changed(0, 0, "one", Q)), "Q holds 'one', expected a finite number"),
    "NaN in it": (as_json(Q=changed(0, 3, float("nan"), Q)), "Q holds 'nan', expected a finite number"),
    "focal lengths": (as_json(P1=changed(1, 1, 900, P1), P2=P2), "P1 has focal length 900 along y and P1 994.978"),
    "two focal lengths": (
        as_json(P1=P1, P2=changed(0, 0, 900, P2)),
        "P2 has focal length 900 along x and P1 994.978 along x, expected the same: the pair is not rectified",
    ),
    "rows apart": (
        as_json(P1=P1, P2=changed(1, 2, 250, P2)),
        "cy is 254.877 in P1 and 250 in P2, expected the same: the pair is not rectified",
    ),
    "vertical": (
        as_json(P1=P1, P2=changed(1, 3, -1e5, changed(0, 3, 0, P2))),
        "P2 moves the camera by -100000 along y, expected cameras side by side",
    ),
    "swapped": (as_json(P1=P1, P2=changed(0, 3, 5e4, P2)), "expected 0 and a negative number: P1 is the left camera"),
    "skew": (as_json(P1=changed(0, 1, 3, P1), P2=P2), "P1 is .*, expected .f 0 cx; 0 f cy; 0 0 1."),
    "no Q": (as_json(Q=changed(0, 1, 3, Q)), "Q has other entries than stereoRectify's"),
    "swapped Q": (as_json(Q=changed(3, 2, -0.1, Q)), "expected 1 / baseline > 0: the first camera is the left"),
    "negative f": (as_json(Q=changed(2, 3, -5, Q)), "focal_length is -5.0, expected a finite number > 0"),
    "width": (as_json(Q=Q, image_width=7.5), "image_width is 7.5, expected a whole number >= 1"),
    "no cam1": (MOTORCYCLE.replace("cam1", "camera"), "there is no cam1, expected a matrix of 3 x 3"),
    "no cam0": (MOTORCYCLE.replace("cam0", "camera"), "there is no cam0, expected a matrix of 3 x 3"),
    "no baseline": (MOTORCYCLE.replace("baseline", "base"), "there is no baseline, expected a number"),
    "baseline": (MOTORCYCLE.replace("193.001", "wide"), "baseline holds 'wide', expected a finite number"),
    "no baseline at all": (MOTORCYCLE.replace("193.001", "0"), "baseline is 0.0, expected a finite number > 0"),
    "short matrix": (MOTORCYCLE.replace("; 0 0 1]", "]"), "cam0 is no matrix of 3 x 3"),
    "cam1's f": (
        MOTORCYCLE.replace("cam1=[3979.911", "cam1=[3900"),
        "cam1 has focal length 3900 along x and cam0 3979.91 along x, expected the same: the pair is not rectified",
    ),
    "doffs": (MOTORCYCLE.replace("124.343", "24.343"), "doffs is 24.343, but cx of cam1 minus cx of cam0 is 124.343"),
    "ndisp": (MOTORCYCLE.replace("280", "0"), "ndisp is 0, expected a whole number >= 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_files(tmp_path: Path, case: str) -> None:
    text, words = REFUSED[case]
    path = written(tmp_path / "calibration", text)
    with pytest.raises(CalibrationError, match=words) as caught:
        load_calibration(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_refused_places(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="there is no such file"):
        load_calibration(tmp_path / "calib.txt")
    with pytest.raises(CalibrationError, match="this is a folder"):
        load_calibration(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(CalibrationError, match=r"not a text file, expected calib\.txt, YAML or JSON"):
        load_calibration(tmp_path / "a.png")


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    for tag in ("python/object/apply:os.mkdir", "python/name:os.mkdir", "python/object/new:os.mkdir"):
        path = written(tmp_path / "a.yml", f'P1: !!{tag} ["{tmp_path / "made"}"]')
        with pytest.raises(CalibrationError, match=r"neither calib\.txt nor YAML nor JSON"):
            load_calibration(path)
    laughs = "a0: &a0 [1, 1, 1, 1]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 40))
    with pytest.raises(CalibrationError, match="Q is no matrix of 4 x 4"):
        load_calibration(written(tmp_path / "a.yml", laughs + "Q: *a39"))
    for endless in ('{"a": ' + "[" * 100_000, "a: " + "[" * 2_000, "Q: &a [*a, *a, *a, *a]"):
        with pytest.raises(CalibrationError):
            load_calibration(written(tmp_path / "a.yml", endless))
    assert not (tmp_path / "made").exists()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), text=st.sampled_from([MOTORCYCLE, OLD_YAML, as_json(P1=P1, P2=P2), as_json(Q=Q)]))
def test_broken_files_are_refused_and_nothing_else(tmp_path: Path, data: st.DataObject, text: str) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.text(max_size=4)) + text[place + data.draw(st.integers(0, 30)) :]
    path = tmp_path / "calibration"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        assert load_calibration(path).focal_length > 0
    except CalibrationError as error:
        assert str(path) in str(error)


def test_depth_of_the_motorcycle(tmp_path: Path) -> None:
    """Z = f B / (d + doffs), by hand for one disparity: 3979.911 * 193.001 / (140 + 124.343)."""
    calibration = load_calibration(written(tmp_path / "calib.txt", MOTORCYCLE))
    points = calibration.triangulate(np.full((1988, 2964), 140.0, np.float32))
    assert points[0, 0, 2] == pytest.approx(2905.79589, abs=1e-3)
    same = triangulate(
        np.full((1988, 2964), 140.0), focal_length=3979.911, baseline=193.001, doffs=124.343, cx=1244.772, cy=1019.507
    )
    np.testing.assert_allclose(points, same, rtol=1e-6)
