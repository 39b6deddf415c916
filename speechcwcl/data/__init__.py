"""Speech data: folders, manifests, audio, features, augmentation."""
