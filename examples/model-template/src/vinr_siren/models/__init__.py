"""Models of this package, a file each."""
