"""What a package of someone else's adds to ACmix-NAS: one file for each addition."""
