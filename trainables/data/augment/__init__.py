"""The train set: crops, augmentation, mixing."""
