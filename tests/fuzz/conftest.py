"""Hypothesis' profiles: `make test` takes the short one with fixed seeds, `make fuzz` the long."""

import os

from hypothesis import HealthCheck, settings
from speechbrain.utils.importutils import LazyModule

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
COMMON = {"deadline": None, "suppress_health_check": QUIET, "database": None}
settings.register_profile("short", max_examples=20, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=3000, **COMMON)
settings.register_profile("middle", max_examples=500, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

# Hypothesis asks every loaded module for its file, at which SpeechBrain's lazy ones fail to load.
LazyModule.__file__ = None
