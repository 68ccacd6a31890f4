"""The logs of a run: files of values, TensorBoard, the terminal."""
