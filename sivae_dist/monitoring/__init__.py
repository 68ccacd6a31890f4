"""What a run logs: values in files, TensorBoard, the terminal."""
