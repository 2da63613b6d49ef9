"""Speed: what each part costs beside a plain reference, a peer library and the least that the hardware allows."""
