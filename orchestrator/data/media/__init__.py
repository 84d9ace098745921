"""Images and sound: decoding, resizing, spectrograms, augmentation."""
