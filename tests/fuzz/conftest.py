"""How many examples: 200 per reader and always the same ones, or with SEGSEARCH_FUZZ=N (`make fuzz`) N new ones."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

EVERY = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("ci", derandomize=True, database=None, deadline=None, suppress_health_check=EVERY)
settings.register_profile(
    "fuzz",
    database=None,
    deadline=None,
    suppress_health_check=EVERY,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    print_blob=True,
)
settings.load_profile("fuzz" if "SEGSEARCH_FUZZ" in os.environ else "ci")
