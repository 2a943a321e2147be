"""The command line, and the composition root: the only part of `catchment` that knows the tiers."""
