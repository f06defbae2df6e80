"""Settings for property tests: no deadline, since a busy machine is slow and not wrong."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("project", deadline=None)
settings.load_profile("project")
