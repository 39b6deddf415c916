"""Zero-shot classification on arrays: protocols, class vectors, thresholds."""
