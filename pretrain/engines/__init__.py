"""DeepSpeed engines, one for each student."""
