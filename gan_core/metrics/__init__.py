"""Measures of sample quality, one file each: `evaluate(real_images, fake_images)`, whose keys name the feature extractor."""
