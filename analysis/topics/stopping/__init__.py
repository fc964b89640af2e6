"""Replay of stop rules, and early signals."""
