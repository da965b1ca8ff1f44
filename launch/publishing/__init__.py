"""launch/publish.py: a student as an ordinary Hugging Face folder with a model card."""
