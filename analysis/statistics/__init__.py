"""Arrays in, arrays out: what several topics compute in the same way."""
