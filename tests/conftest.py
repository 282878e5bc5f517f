"""What holds for all tests."""

from hypothesis import settings

# No deadline for one example: the machine that runs this also runs the other half of the tests.
settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")
