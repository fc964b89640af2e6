"""Statistics of arrays: tests, intervals, models."""
