"""A sweep as a table, its settings and scales."""
