"""Students: their configuration, shapes and first weights."""
