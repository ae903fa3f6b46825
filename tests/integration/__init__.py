"""Real stages, on the real small model or a tiny local one."""
