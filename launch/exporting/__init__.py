"""launch/export.py: a student as ONNX files for serving, compared with the model that they were made from."""
