"""``fastseg info``: what it says, and that it needs nothing but numpy and torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import fastseg
from fastseg.backends import select
from fastseg.cli.main import main


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for title in ("versions", "processor", "graphics", "backends", "kernels"):
        assert f"{title}\n" in out
    assert fastseg.__version__ in out
    assert all(op in out for op in select.CANDIDATES)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["fastseg"] == fastseg.__version__
    assert set(facts["backends"]) == set(select.BACKENDS)
    assert facts["backends"]["reference"] is None
    assert set(facts["kernels"]) == set(select.CANDIDATES)
    assert all(devices["cpu"] in select.BACKENDS for devices in facts["kernels"].values())


def test_a_forced_backend_that_cannot_run_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with select.backend("cuda"):
        assert main(["info", "--json"]) == 0
    kernels = json.loads(capsys.readouterr().out)["kernels"]
    assert all("backend 'cuda' is forced" in devices["cpu"] for devices in kernels.values())


def test_needs_only_numpy_and_torch() -> None:
    """In a process where the libraries of the extras cannot be imported."""
    code = (
        "import sys\n"
        "for name in ('monai', 'nibabel', 'matplotlib', 'rich', 'scipy', 'skimage', 'dynamic_network_architectures',"
        " 'pytest'):\n"
        "    sys.modules[name] = None\n"
        "from fastseg.cli.main import main\n"
        "sys.exit(main(['info', '--json']))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["versions"]["fastseg"] == fastseg.__version__


def test_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["--version"])
    assert exit_code.value.code == 0
    assert capsys.readouterr().out == f"fastseg {fastseg.__version__}\n"
    with pytest.raises(SystemExit) as exit_code:
        main([])
    assert exit_code.value.code == 2
    assert "required" in capsys.readouterr().err
