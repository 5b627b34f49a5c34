"""How the bundled CLIP and the benchmark of scenes were made. Nothing here is imported by the package."""
