"""What `make demo` downloads, builds and trains on."""
