"""The tiny model in a run's model folder."""

from tests.unit.compute.conftest import saved_tiny as saved_tiny
