"""Students: their configuration, sizes and initial weights."""
