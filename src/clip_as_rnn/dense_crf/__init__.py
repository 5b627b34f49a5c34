"""Fully connected conditional random fields on images, usable without the rest of this package."""
