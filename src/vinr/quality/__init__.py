"""How close frames are to others."""
