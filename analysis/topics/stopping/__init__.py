"""What stop rules would have saved, and how early the order of trials shows."""
