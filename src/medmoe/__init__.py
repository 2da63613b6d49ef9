"""Vision-language models over your own medical images."""
