"""Files in and out: pictures read safely, results written whole or not at all."""
