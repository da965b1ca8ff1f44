"""The format of a built corpus: blocks in shards, listed by a manifest, in a folder or at a URL."""
