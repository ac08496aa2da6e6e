"""Settings for every test. Ray and vLLM are started once each and shared by the tests that want them."""

from hypothesis import settings

# First calls import lazily; a shared machine is slow now and then. No test asserts a time.
settings.register_profile("default", deadline=None)
settings.load_profile("default")
