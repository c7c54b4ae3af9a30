"""The training loop, its teacher, and its resumable state."""
