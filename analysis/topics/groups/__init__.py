"""Metrics and latents by group of tokens."""
