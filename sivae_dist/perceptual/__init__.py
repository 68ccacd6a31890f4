"""The perceptual distance of images: features of VGG16 (vgg.py), with weights from a file (weights.py)."""
