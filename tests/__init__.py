"""The tests."""

from hypothesis import HealthCheck, settings

# machines are noisy: how long an example takes says nothing
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
