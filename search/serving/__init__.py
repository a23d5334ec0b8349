"""A bundle behind HTTP on this machine: limits, requests, answers, the page, the Ray Serve deployment."""
