"""From the records of a sweep to a report."""
