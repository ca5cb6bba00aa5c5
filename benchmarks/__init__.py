"""Timed and repeated comparisons; never part of the tests."""
