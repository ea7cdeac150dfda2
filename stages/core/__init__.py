"""What every folder uses: settings, sealed artifacts, pictures, weights and workers."""
