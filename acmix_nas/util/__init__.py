"""What every room uses: errors, files, plugins, workers, the terminal."""
