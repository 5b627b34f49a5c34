"""Frozen vision-language encoders: their forward passes, how they are found and loaded, what they keep of texts."""
