"""The algebra of mergeable partials: one aggregate a file, composed by `catchment.algebra.merge`."""
