"""Students for text vectors, and of a modern architecture, beside one by states and relations."""
