"""What a package of someone else adds to ACmix-NAS: one file for each addition."""
