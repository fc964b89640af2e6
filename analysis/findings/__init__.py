"""What several topics share: noise, fronts, ranks, verdicts."""
