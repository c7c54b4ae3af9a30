"""Check a user's network before any work: what it computes with, which layers a series replaces, what files hold."""
