"""The tests, a package: what several of them use is imported by its full name, as tests.oracle."""
