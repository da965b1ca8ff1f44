"""A BiLSTM by labels alone and taught by a fine-tuned encoder."""
