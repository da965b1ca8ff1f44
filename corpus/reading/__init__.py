"""Bytes of files, URLs, archives and tables, read as documents."""
