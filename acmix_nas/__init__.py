"""ACmix-NAS."""
