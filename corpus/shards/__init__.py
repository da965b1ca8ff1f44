"""What a built corpus is: blocks in shards, listed by a manifest, in a folder or behind a URL."""
