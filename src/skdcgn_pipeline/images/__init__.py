"""Image sets: where real images come from, and their bias."""
