"""What is fast and how fast, always against something, in one run; and plain renderings of the foreign teachers."""
