"""Reading: files, URLs, archives and tables to documents."""
