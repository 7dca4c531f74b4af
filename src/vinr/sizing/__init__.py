"""From a number of parameters to an architecture: strides and widths, and the search for a size."""
