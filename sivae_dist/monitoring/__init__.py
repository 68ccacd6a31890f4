"""What a run tells: figures in files, TensorBoard, the terminal."""
