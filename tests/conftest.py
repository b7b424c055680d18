"""What every test stands on: one thread, no network, and real data only where somebody points to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any test module imports a library that reads them. Two test processes share two cores.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
)

REAL_DATA = "DATUMLOOM_REAL_DATA"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with `tokenizers/` and `data/` of real models and sets; the test is skipped when none is named."""
    named = os.environ.get(REAL_DATA)
    if not named:
        pytest.skip(f"{REAL_DATA} is unset: it names a folder with real tokenizers and data")
    folder = Path(named)
    if not (folder / "tokenizers").is_dir() or not (folder / "data").is_dir():
        pytest.fail(f"{REAL_DATA}: expected a folder with tokenizers/ and data/; got {folder}")
    return folder
