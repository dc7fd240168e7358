"""What happens to the frames between reading and padding: crop, transform, normalise, augment."""
