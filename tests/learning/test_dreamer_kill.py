"""A training that is killed with SIGKILL, wherever it stands, ends in the bytes of an unbroken one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys
from pathlib import Path
import gymnasium, models
from models import runtime
from models.dreamer import Config
runtime.single_thread()
config = {**vars(Config.nano()), "env_steps": 1200, "checkpoint_steps": 40}
env = gymnasium.make_vec("CartPole-v1", num_envs=4)
kept = Path(sys.argv[2]) if len(sys.argv) > 2 else None
models.train("dreamer", env, config, seed=3, checkpoint_dir=kept).save(Path(sys.argv[1]))
"""


def _start(*arguments):
    return subprocess.Popen([sys.executable, "-c", CHILD, *map(str, arguments)], cwd=ROOT)


@pytest.mark.learning
@pytest.mark.timeout(900)
def test_it_survives_kills_at_any_moment(tmp_path):
    assert _start(tmp_path / "whole").wait() == 0
    kept, done = tmp_path / "checkpoint", tmp_path / "killed"
    kills = 0
    for pause in (0.1, 0.7, 1.3):
        before = (kept / "checkpoint.safetensors").stat().st_mtime_ns if kept.exists() else 0
        child = _start(done, kept)
        # Wait until this run has written a checkpoint of its own, then kill it a moment later.
        while child.poll() is None:
            path = kept / "checkpoint.safetensors"
            if path.exists() and path.stat().st_mtime_ns > before:
                time.sleep(pause)
                os.kill(child.pid, signal.SIGKILL)
                kills += child.wait() == -signal.SIGKILL
                break
            time.sleep(0.02)
    assert kills >= 2
    assert _start(done, kept).wait() == 0
    for name in ("agent.json", "weights.safetensors"):
        assert (done / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
