"""DeepSpeed engines, one a student."""
