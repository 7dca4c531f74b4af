"""What an interrupted command keeps, and how it is interrupted."""
