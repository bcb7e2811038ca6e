"""What every room uses: files, weight files, latents, the contracts of systems, the render loop, records."""
