"""Fixtures that several modules of real processes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.foreign_environment import clean_environment


@pytest.fixture(scope="session")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has fastavro and confluent-kafka, and nothing of ours."""
    return clean_environment(tmp_path_factory.mktemp("reader") / "venv")
