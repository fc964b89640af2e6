"""Rules on plain values, numpy and scipy only: what search, tune and analysis share."""
