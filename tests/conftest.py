"""What several test files share."""

from pathlib import Path

import pytest

from mbt_lightning.data.demo import DemoSize, demo_manifest


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """Manifest of a handful of the embedded clips (8 to train, 2 to validate, 4 to test), encoded once."""
    return demo_manifest(DemoSize(8, 2, 4), cache=tmp_path_factory.mktemp("demo"))
