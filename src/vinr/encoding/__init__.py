"""From videos to a file: plan, fit, code, assemble."""
