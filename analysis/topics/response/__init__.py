"""How l0 depends on l1_alpha."""
