"""Rules on plain values, with numpy and scipy only, shared by search, tune and analysis."""
