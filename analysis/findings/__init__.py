"""Findings that several topics share: noise, fronts, ranks, tests of effects."""
