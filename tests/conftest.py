"""For all tests: a property's example may take as long as a busy machine makes it take."""

from hypothesis import settings

settings.register_profile("oleaster", deadline=None)
settings.load_profile("oleaster")
