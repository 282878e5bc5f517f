"""What stands in deploy/ beside the settings."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.settings import Replication

UNIT = Path(__file__).parents[2] / "deploy" / "ocpi-engine.service"
PROGRAM = "/opt/ocpi-engine/bin/ocpi-engine"


@pytest.fixture
def service():
    """The [Service] part of the systemd unit."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    unit.read(UNIT)
    return unit["Service"]


def test_systemd_leaves_time_for_a_graceful_stop(service):
    """It kills no sooner than the engine has given up waiting for answers (P4)."""
    assert float(service["TimeoutStopSec"]) >= 2 * Replication().stop_deadline_s
    assert service["KillSignal"] == "SIGTERM"


def test_the_unit_serves_its_own_state_directory(service):
    """The folder that is served is the one that may be written."""
    assert service["ExecStart"] == f"{PROGRAM} serve /var/lib/{service['StateDirectory']}"
    assert (service["StateDirectoryMode"], service["UMask"]) == ("0700", "0077")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_understands_the_unit(tmp_path):
    """Every setting of it is one, with a value that it may have."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, sys.executable))

    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],  # noqa: S607 - wherever it is
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (verified.returncode, verified.stderr) == (0, "")
